// Time from the start of the GPU function to its first and second image.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { PROTOCOL_VERSION } from '../../../gpu-fn/contract.ts'
import type { Line } from './plan.ts'
import { sidesOf } from './plan.ts'

const MAIN = path.join(import.meta.dirname, '../../../gpu-fn/main.ts')

type StartOptions = {
  /** Directory of the package. */
  packages: string
  model: string
  tier: string
  size: string
  prompt: string
  seed: number
  env?: Record<string, string>
}

/** Starts the GPU function, requests two Turbo images of one size, and returns the time of each event in seconds. */
export async function measureStart(options: StartOptions, say: (line: Line) => void): Promise<void> {
  const { packages, model, tier, size, env } = options
  const started = performance.now()
  const since = () => (performance.now() - started) / 1000
  const child = spawn(process.execPath, [MAIN], {
    env: {
      ...process.env,
      ...{ PORT: '0', HOST: '127.0.0.1', LOG_LEVEL: 'info', OCTET_INSECURE: '1', OCTET_PACKAGES: packages },
      ...{ OCTET_PRELOAD: `${model}:${tier}`, OCTET_WARM: size, ...env },
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = once(child, 'exit')
  try {
    const url = await new Promise<string>((resolve, reject) => {
      let address = ''
      createInterface(child.stdout).on('line', (text) => {
        const { msg, port, ...fields } = JSON.parse(text)
        const metric = { listening: 'start_listening_s', 'model loaded': 'start_loaded_s', ready: 'start_ready_s' }[
          msg as string
        ]
        if (metric) say({ metric, size, value: since() })
        if (msg === 'model loaded' || msg === 'memory plan') say({ note: JSON.stringify(fields) })
        if (msg === 'listening') address = `http://127.0.0.1:${port}`
        if (msg === 'ready') resolve(address)
      })
      exited.then(() => reject(new Error('the GPU function ended before it was ready')))
    })
    await makeImage(url, 'first', options)
    say({ metric: 'first_image_s', size, value: since() })
    const second = performance.now()
    await makeImage(url, 'second', options)
    say({ metric: 'second_image_s', size, value: (performance.now() - second) / 1000 })
  } finally {
    child.kill('SIGTERM')
    await exited
  }
}

/** Reads the whole response. Throws unless it ends with an image. */
async function makeImage(url: string, job: string, { model, tier, size, prompt, seed }: StartOptions): Promise<void> {
  const body = JSON.stringify({
    ...{ protocol: PROTOCOL_VERSION, attempt: 1, model, tier, prompt, negative_prompt: '', ...sidesOf(size) },
    ...{ steps: 4, guidance_scale: 1, seed, count: 1, output_format: 'png', output_quality: 90 },
    text_convention: 'diffusers',
  })
  const headers = { 'content-type': 'application/json' }
  const reply = await fetch(`${url}/jobs/${job}`, { method: 'PUT', headers, body })
  const text = Buffer.from(await reply.arrayBuffer()).toString('latin1')
  if (!reply.ok || !text.includes('"succeeded"'))
    throw new Error(`the job ended with ${reply.status}: ${text.slice(-300)}`)
}
