// diffusers on the CPU of this machine, as a baseline.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import * as z from 'zod'
import { endWithThis } from '../command/child-process.ts'

const SCRIPT = path.join(import.meta.dirname, 'diffusers_images.py')
const MISSING = `has no diffusers, transformers and torch. Install them, and set --python:
  python3 -m venv .octet/python && .octet/python/bin/pip install diffusers transformers sentencepiece torch
  npm run bench -- … --python .octet/python/bin/python`

/** The input of diffusers_images.py; `checkpoint` is a directory. */
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
  /** Generates `name`.png in float32. `seconds` includes the writing of the file. */
  make: (request: DiffusersRequest) => Promise<z.infer<typeof answer>>
  close: () => Promise<void>
}

/** Starts diffusers, which writes images to `out`. Throws with installation instructions if `python` cannot import it. */
export function openDiffusers(python: string, out: string, threads: number): Diffusers {
  const probe = spawnSync(python, ['-c', 'import diffusers, transformers, torch, sentencepiece'])
  if (probe.status !== 0) throw new Error(`${python} ${MISSING}`)
  const child = endWithThis(spawn(python, [SCRIPT, '/', out, String(threads)], { stdio: ['pipe', 'pipe', 'ignore'] }))
  const exited = once(child, 'exit')
  const answers = createInterface(child.stdout)[Symbol.asyncIterator]()
  return {
    make: async (request) => {
      child.stdin.write(`${JSON.stringify(request)}\n`)
      const { value, done } = await answers.next()
      if (done) throw new Error(`diffusers exited during ${JSON.stringify(request)}`)
      return answer.parse(JSON.parse(value))
    },
    close: async () => {
      child.stdin.end()
      await exited
    },
  }
}
