// `npm run demo -- "a prompt"`: generates an image with the worker and the GPU function on this machine.

import { spawn } from 'node:child_process'
import fs from 'node:fs/promises'
import path from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { prepareCommand } from '../command/npm.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { print, printError } from '../command/print.ts'
import { type ImageReply, requestImage } from './image-request.ts'
import { type Local, pageOf, startLocal } from './local.ts'
import { findDrawableObjects, readVocabulary } from './models/vocabulary.ts'

type Flags = { route?: 'turbo' | 'full'; size?: string; seed?: number; out?: string; json?: boolean; open?: boolean }

const FORMATS: Record<string, string> = { '.png': 'png', '.jpg': 'jpeg', '.jpeg': 'jpeg', '.webp': 'webp' }

function chooseOutputPath(text: string): string {
  if (FORMATS[path.extname(text)]) return text
  throw new InvalidArgumentError(`The extension must be one of ${Object.keys(FORMATS).join(', ')}.`)
}

const NEXT =
  'Next: `npm run dev` keeps both servers running and prints the address of the page; `npm run serve -- --checkpoint PATH` serves SD3.5.'

async function main(): Promise<void> {
  const command = new Command('demo')
    .description('Generates an image with the built-in model on this machine.')
    .argument('[prompt...]', 'description of the image; optional with --open')
    .addOption(
      new Option('--route <route>', 'turbo has 4 steps, full all of them; chosen by the worker by default').choices([
        'turbo',
        'full',
      ]),
    )
    .option('--size <WxH>', "such as 256x256; the model's default otherwise")
    .option('--seed <number>', 'the same seed produces the same image', parseWholeNumber)
    .option('--out <file>', 'png, jpg or webp; octet-SEED.png by default', chooseOutputPath)
    .option('--json', 'print one JSON object instead of text')
    .option('--open', 'open the playground in a browser, and serve it until Ctrl+C')
  const flags = prepareCommand(command).parse().opts<Flags>()
  const prompt = command.args.join(' ')
  if (prompt === '' && !flags.open) command.error("error: missing required argument 'prompt'")
  const say = flags.json ? () => {} : (text: string) => console.log(text)
  endOnSignals()
  const started = performance.now()
  say('Starting the GPU function and the worker …')
  const local = await startLocal(flags.open ? {} : { only: flags.route === 'full' ? 'nano' : 'nano-turbo' })
  try {
    say(startLine(local))
    if (prompt !== '') await generate(local, prompt, flags, started)
    if (flags.open) await openPlayground(local)
    else say(NEXT)
  } finally {
    await local.stop()
  }
}

/** Writes the image of a prompt and reports it. `started` is the start of the command. */
async function generate(local: Local, prompt: string, flags: Flags, started: number): Promise<void> {
  const { route, size, seed } = flags
  const output_format = flags.out === undefined ? 'png' : FORMATS[path.extname(flags.out)]
  const reply = await requestImage(local, { prompt, route, size, seed, output_format }, flags.json)
  const out = flags.out ?? `octet-${reply.data[0]!.seed}.png`
  await fs.mkdir(path.dirname(path.resolve(out)), { recursive: true })
  await fs.writeFile(out, Buffer.from(reply.data[0]!.b64_json, 'base64'))
  const total = (performance.now() - started) / 1000
  if (flags.json) return console.log(JSON.stringify(summarize(local, reply, out, total), null, 2))
  report(reply, out, total)
  const advice = await suggestPrompt(prompt)
  if (advice) console.log(advice)
}

/** Opens the playground in the default browser and serves it until a signal ends this process. */
async function openPlayground(local: Local): Promise<never> {
  const [command, ...args] = { darwin: ['open'], win32: ['cmd', '/c', 'start', ''] }[process.platform as string] ?? [
    'xdg-open',
  ]
  print(`The playground is at ${pageOf(local)} until Ctrl+C.`)
  // Without a desktop, the address on the terminal is enough.
  spawn(command!, [...args, pageOf(local)], { stdio: 'ignore' }).on('error', () => {})
  throw new Error(await local.gpuEnded)
}

const round = (seconds: number) => Number(seconds.toFixed(2))

function startLine({ seconds: { compile, gpu, worker } }: Local): string {
  const compiled = compile > 0.2 ? `model compiled in ${round(compile)} s` : 'model already compiled'
  return `${compiled}, GPU function warm in ${round(gpu)} s, worker ready in ${round(worker)} s (at the same time)`
}

function report({ data: [image], size, octet }: ImageReply, out: string, total: number): void {
  const { route, model, tier, steps, guidance_scale, reason, timings, warnings } = octet
  print(`Route ${route}: ${model} in ${tier}, ${steps} steps, guidance scale ${guidance_scale}. ${reason}`)
  for (const { message } of warnings) print(`Note: ${message}`)
  const parts = Object.entries(timings ?? {}).map(([part, seconds]) => `${part} ${seconds.toFixed(2)} s`)
  console.log(`Times: ${parts.join(', ')}; ${total.toFixed(1)} s in total, including the start`)
  print(`${path.resolve(out)}  (${size}, seed ${image!.seed})`)
}

/** Advice for a prompt without an object that nano can draw. Its warnings list the words that it does not know. */
async function suggestPrompt(prompt: string): Promise<string | null> {
  const vocabulary = await readVocabulary()
  const known = findDrawableObjects(prompt, vocabulary)
  if (known.length > 0 || /\bsigns?\b/i.test(prompt)) return null
  const world = `nano can draw ${vocabulary.sprites.length} objects, listed in gpu-fn/nano/vocabulary.json`
  return `${world}, and none is in this prompt; try "a red heart on a blue background"`
}

function summarize({ seconds }: Local, { data: [image], size, octet }: ImageReply, out: string, total: number) {
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
