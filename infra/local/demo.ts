// `npm run demo -- "a prompt"`: generates an image with the worker and the GPU function on this machine.
import { spawn } from 'node:child_process'
import fs from 'node:fs/promises'
import path from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import type { JobView, PublicJob } from '../../edge/dialects/public-job.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { print, printError } from '../command/print.ts'
import { parseWholeNumber } from '../command/whole-number.ts'
import { type Local, pageOf, startLocal } from './local.ts'
import { findDrawableObjects, readVocabulary } from './vocabulary.ts'

type Flags = { route?: 'turbo' | 'full'; size?: string; seed?: number; out: string; json?: boolean; open?: boolean }
/** The reply of POST /v1/images/generations. */
type Reply = {
  data: { b64_json: string; seed: number | string; content_type: string }[]
  size: string
  octet: { job: string } & Pick<
    PublicJob,
    'route' | 'model' | 'tier' | 'steps' | 'guidance_scale' | 'reason' | 'timings' | 'warnings'
  >
}

const FORMATS: Record<string, string> = { '.png': 'png', '.jpg': 'jpeg', '.jpeg': 'jpeg', '.webp': 'webp' }

function outputPath(text: string): string {
  if (FORMATS[path.extname(text)]) return text
  throw new InvalidArgumentError(`The extension must be one of ${Object.keys(FORMATS).join(', ')}.`)
}

async function main(): Promise<void> {
  const command = new Command('demo')
    .description('Generates an image with the built-in model on this machine.')
    .argument('[prompt]', 'description of the image; optional with --open')
    .addOption(
      new Option('--route <route>', 'turbo has 4 steps, full all of them; chosen by the worker by default').choices([
        'turbo',
        'full',
      ]),
    )
    .option('--size <WxH>', "such as 256x256; the model's default otherwise")
    .option('--seed <number>', 'the same seed gives the same image', parseWholeNumber)
    .option('--out <file>', 'png, jpg or webp', outputPath, 'octet.png')
    .option('--json', 'print one JSON object instead of text')
    .option('--open', 'open the playground in a browser, and serve it until Ctrl+C')
    .parse()
  const flags = command.opts<Flags>()
  const [prompt] = command.args
  if (prompt === undefined && !flags.open) command.error("error: missing required argument 'prompt'")
  const say = flags.json ? () => {} : (text: string) => console.log(text)
  endOnSignals()
  const started = performance.now()
  say('Starting the GPU function and the worker …')
  const local = await startLocal()
  try {
    say(startLine(local))
    if (prompt !== undefined) {
      const reply = await generate(local, prompt, flags)
      await fs.mkdir(path.dirname(path.resolve(flags.out)), { recursive: true })
      await fs.writeFile(flags.out, Buffer.from(reply.data[0]!.b64_json, 'base64'))
      const total = (performance.now() - started) / 1000
      if (flags.json) console.log(JSON.stringify(summary(local, reply, flags.out, total), null, 2))
      else report(reply, flags.out, total)
      say(await hint(prompt))
    }
    if (flags.open) await openPlayground(local)
    else say('The playground: npm run demo -- --open')
  } finally {
    await local.stop()
  }
}

/** Opens the playground in the default browser and serves it until a signal ends this process. */
async function openPlayground(local: Local): Promise<never> {
  const [command, ...args] = { darwin: ['open'], win32: ['cmd', '/c', 'start', ''] }[process.platform as string] ?? [
    'xdg-open',
  ]
  print(`The playground is at ${pageOf(local)} until Ctrl+C.`)
  // Without a desktop, the address on the terminal is enough.
  spawn(command!, [...args, pageOf(local)], { stdio: 'ignore' }).on('error', () => {})
  return new Promise(() => {})
}

const round = (seconds: number) => Number(seconds.toFixed(2))

function startLine({ seconds: { compile, gpu, worker } }: Local): string {
  const compiled = compile > 0.2 ? `model compiled in ${round(compile)} s` : 'model already compiled'
  return `${compiled}, GPU function warm in ${round(gpu)} s, worker ready in ${round(worker)} s`
}

async function generate(local: Local, prompt: string, { route, size, seed, out, json }: Flags): Promise<Reply> {
  const headers = { authorization: `Bearer ${local.key}`, 'content-type': 'application/json' }
  const body = JSON.stringify({
    prompt,
    route,
    size,
    seed,
    response_format: 'b64_json',
    output_format: FORMATS[path.extname(out)],
  })
  const request = fetch(`${local.url}/v1/images/generations`, { method: 'POST', headers, body })
  const watching = new AbortController()
  const watched = json ? null : watch(local, headers, watching.signal)
  const response = await request.finally(() => watching.abort())
  await watched
  const reply = (await response.json()) as Reply & { detail?: string }
  if (!response.ok) throw new Error(reply.detail ?? `the worker returned ${response.status}`)
  return reply
}

async function read<T>(address: string, headers: Record<string, string>, signal: AbortSignal): Promise<T | null> {
  const reply = await fetch(address, { headers, signal }).catch(() => null)
  return reply?.ok ? ((await reply.json().catch(() => null)) as T | null) : null
}

/** Displays the job's current step until the signal aborts. */
async function watch({ url }: Local, headers: Record<string, string>, signal: AbortSignal): Promise<void> {
  let [id, shown] = ['', '']
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    id ||= (await read<{ data: JobView[] }>(`${url}/v1/jobs?limit=1`, headers, signal))?.data[0]?.id ?? ''
    const job = id && (await read<JobView>(`${url}/v1/jobs/${id}`, headers, signal))
    if (!job) continue
    const { state, progress } = job
    const text = progress && 'step' in progress ? `${state}: step ${progress.step} of ${progress.steps}` : state
    if (text !== shown) process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text}` : `${text}\n`)
    shown = text
  }
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
}

function report({ data: [image], size, octet }: Reply, out: string, total: number): void {
  const { route, model, tier, steps, guidance_scale, reason, timings, warnings } = octet
  print(`Route ${route}: ${model} in ${tier}, ${steps} steps, guidance scale ${guidance_scale}. ${reason}`)
  for (const { message } of warnings) print(`Note: ${message}`)
  const parts = Object.entries(timings ?? {}).map(([part, seconds]) => `${part} ${seconds.toFixed(2)} s`)
  console.log(`Times: ${parts.join(', ')}; ${total.toFixed(1)} s in total, including the start`)
  print(`${path.resolve(out)}  (${size}, seed ${image!.seed})`)
}

/** Which objects of the prompt nano can draw. */
async function hint(prompt: string): Promise<string> {
  const vocabulary = await readVocabulary()
  const known = findDrawableObjects(prompt, vocabulary)
  if (known.length > 0) return `Objects of this prompt that nano can draw: ${known.join(', ')}`
  const world = `nano can draw ${vocabulary.sprites.length} objects, listed in gpu-fn/nano/vocabulary.json`
  return `${world}, and none is in this prompt; try "a red heart on a blue background"`
}

function summary({ seconds }: Local, { data: [image], size, octet }: Reply, out: string, total: number) {
  return {
    file: path.resolve(out),
    size,
    seed: image!.seed,
    content_type: image!.content_type,
    ...octet,
    start: seconds,
    total,
  }
}

await main().catch((error: Error) => {
  printError('demo', error)
  process.exitCode = 1
})
