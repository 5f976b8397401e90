// diffusers on the CPU of this machine, as a baseline.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import * as z from 'zod'

const SCRIPT = path.join(import.meta.dirname, 'diffusers_images.py')
const MISSING = `has no diffusers, transformers and torch. Install them, and say where they are:
  python3 -m venv .octet/python && .octet/python/bin/pip install diffusers transformers sentencepiece torch
  npm run bench -- … --python .octet/python/bin/python`

/** As diffusers_images.py reads it; `checkpoint` is a directory. */
export type DiffusersRequest = {
  name: string
  checkpoint: string
  prompt: string
  negative_prompt: string
  seed: number
  steps: number
  guidance_scale: number
  width: number
  height: number
}

const answer = z.object({ seconds: z.number(), diffusers: z.string() })

export type Diffusers = {
  /** Writes `name`.png, in float32; `seconds` include the file. */
  make: (request: DiffusersRequest) => Promise<z.infer<typeof answer>>
  close: () => Promise<void>
}

/** Starts diffusers, which writes into `out`. Throws with the way to install it when `python` cannot import it. */
export function openDiffusers(python: string, out: string, threads: number): Diffusers {
  const probe = spawnSync(python, ['-c', 'import diffusers, transformers, torch, sentencepiece'])
  if (probe.status !== 0) throw new Error(`${python} ${MISSING}`)
  const child = spawn(python, [SCRIPT, '/', out, String(threads)], { stdio: ['pipe', 'pipe', 'ignore'] })
  const exited = once(child, 'exit')
  const answers = createInterface(child.stdout)[Symbol.asyncIterator]()
  return {
    make: async (request) => {
      child.stdin.write(`${JSON.stringify(request)}\n`)
      const { value, done } = await answers.next()
      if (done) throw new Error(`diffusers ended at ${JSON.stringify(request)}`)
      return answer.parse(JSON.parse(value))
    },
    close: async () => {
      child.stdin.end()
      await exited
    },
  }
}
