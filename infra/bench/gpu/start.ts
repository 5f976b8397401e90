// The GPU function as a child process: its start, and image requests over HTTP.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { PROTOCOL_VERSION, type Timings } from '../../../gpu-fn/contract.ts'
import { endWithThis } from '../../command/child-process.ts'
import { type Line, PART_FROM, PART_TO, parseJson, sidesOf } from './plan.ts'

const MAIN = path.join(import.meta.dirname, '../../../gpu-fn/main.ts')
const METRICS: Record<string, string> = {
  listening: 'start_listening_s',
  'model loaded': 'start_loaded_s',
  ready: 'start_ready_s',
}

type Say = (line: Line) => void
type StartOptions = {
  /** Directory of the package. */
  packages: string
  model: string
  tier: string
  /** Image size of the warm-up run. */
  size: string
  env?: Record<string, string>
}
export type ImageRequest = {
  model: string
  tier: string
  size: string
  prompt: string
  seed: number
  steps: number
  guidanceScale: number
}
export type GpuFunction = {
  /** Generates an image and returns the seconds of its parts. Throws if the job fails. */
  makeImage: (request: ImageRequest) => Promise<Timings>
  /** Seconds since the start of the process. */
  seconds: () => number
  close: () => Promise<void>
}

/** Starts the GPU function and generates two images with 4 steps. Reports, in seconds, the parts of the start and both image times. */
export async function measureStart(
  { prompt, seed, ...served }: StartOptions & { prompt: string; seed: number },
  say: Say,
): Promise<void> {
  const { model, tier, size } = served
  const request: ImageRequest = { ...{ model, tier, size, prompt, seed }, steps: 4, guidanceScale: 1 }
  const gpu = await startGpuFunction(served, say)
  try {
    const requested = gpu.seconds()
    const timings = await gpu.makeImage(request)
    say({ metric: 'first_image_s', size, value: gpu.seconds() })
    for (const part of partsOfJob(requested, timings)) sayPart(part, size, say)
    const second = gpu.seconds()
    await gpu.makeImage(request)
    say({ metric: 'second_image_s', size, value: gpu.seconds() - second })
  } finally {
    await gpu.close()
  }
}

/** A part of the start, in seconds since the start of the process. */
type StartPart = { part: string; from: number; to: number }

/** Metrics of the parts, as `table.ts` reads them. */
function sayPart({ part, from, to }: StartPart, size: string, say: Say): void {
  say({ metric: `${PART_FROM}${part}`, size, value: from })
  say({ metric: `${PART_TO}${part}`, size, value: to })
}

/** The parts of a job that was requested at this time. */
function partsOfJob(requested: number, { queue, load, encode, denoise, decode }: Timings): StartPart[] {
  let to = requested + queue + load
  const parts = { 'prompts and conditioning': encode, 'four steps': denoise, 'decoding and file': decode }
  return Object.entries(parts).map(([part, seconds]) => {
    const from = to
    to += seconds
    return { part: `requested image: ${part}`, from, to }
  })
}

/** Starts the GPU function and waits until it is ready. Throws if its process exits first, or is killed by `signal`. */
export async function startGpuFunction(
  { packages, model, tier, size, env }: StartOptions,
  say: Say,
  signal?: AbortSignal,
): Promise<GpuFunction> {
  const started = performance.now()
  const seconds = () => (performance.now() - started) / 1000
  const child = endWithThis(
    spawn(process.execPath, [MAIN], {
      env: {
        ...process.env,
        ...{ PORT: '0', HOST: '127.0.0.1', LOG_LEVEL: 'info', OCTET_INSECURE: '1', OCTET_PACKAGES: packages },
        ...{ OCTET_PRELOAD: `${model}:${tier}`, OCTET_WARM: size, ...env },
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    }),
  )
  const exited = once(child, 'exit')
  signal?.addEventListener('abort', () => child.kill('SIGKILL'), { once: true })
  const close = async () => {
    child.kill('SIGTERM')
    await exited
  }
  let jobs = 0
  return new Promise<GpuFunction>((resolve, reject) => {
    let address = ''
    let problem = ''
    createInterface(child.stdout).on('line', (text) => {
      const { msg = '', port, err, parts = [], ...fields } = (parseJson(text) ?? {}) as LogLine
      const metric = METRICS[msg]
      if (metric) say({ metric, size, value: seconds() })
      if (msg === 'model loaded' || msg === 'memory plan') say({ note: JSON.stringify(fields) })
      for (const part of parts) sayPart(part, size, say)
      if (err) problem = `: ${msg}, ${err.message}`
      if (msg === 'listening') address = `http://127.0.0.1:${port}`
      if (msg === 'ready')
        resolve({ makeImage: (request) => sendJob(address, `image-${jobs++}`, request, signal), seconds, close })
    })
    exited.then(
      ([code, by]) => reject(new Error(`the GPU function ended with ${code ?? by} before it was ready${problem}`)),
      reject,
    )
  })
}

type LogLine = { msg?: string; port?: number; err?: { message?: string }; parts?: StartPart[] }

const TIMINGS = /"timings":(\{[^{}]*\})/

/** Reads the whole response. Throws unless it ends with an image. */
async function sendJob(url: string, job: string, request: ImageRequest, signal?: AbortSignal): Promise<Timings> {
  const { model, tier, size, prompt, seed, steps, guidanceScale } = request
  const body = JSON.stringify({
    ...{ protocol: PROTOCOL_VERSION, attempt: 1, model, tier, prompt, negative_prompt: '', ...sidesOf(size) },
    ...{ steps, guidance_scale: guidanceScale, seed, count: 1, output_format: 'png', output_quality: 90 },
    text_convention: 'diffusers',
  })
  const headers = { 'content-type': 'application/json' }
  const reply = await fetch(`${url}/jobs/${job}`, { method: 'PUT', headers, body, signal: signal ?? null })
  const text = Buffer.from(await reply.arrayBuffer()).toString('latin1')
  const succeeded = text.indexOf('"type":"succeeded"')
  const timings = succeeded < 0 ? undefined : TIMINGS.exec(text.slice(succeeded))?.[1]
  if (!reply.ok || !timings) throw new Error(`the job ended with ${reply.status}: ${text.slice(-300)}`)
  return JSON.parse(timings)
}
