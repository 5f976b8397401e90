// `npm run serve -- --checkpoint PATH`: your own weights on this machine, from the checkpoint to the first image.
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { gigabytes } from '../../gpu-fn/config.ts'
import { TIERS } from '../../gpu-fn/contract.ts'
import { TARGETS, type Target, type Tier } from '../../gpu-fn/manifest.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { prepareCommand } from '../command/npm.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { print, printError } from '../command/print.ts'
import { prepareHardware } from './hardware.ts'
import { requestImage } from './image-request.ts'
import { type Local, type LocalModels, startLocal } from './local.ts'
import { ROOT } from './models/package-cache.ts'
import { checkControlnets, serveControlnets } from './models/served-controlnets.ts'
import { checkLoras, serveLoras } from './models/served-loras.ts'
import {
  checkSources,
  type Route,
  type Source,
  servedDirectory,
  serveModels,
  sourceOf,
} from './models/served-models.ts'
import { assertFree } from './servers/ports.ts'

type Flags = {
  checkpoint: string[]
  package: string[]
  lora: string[]
  controlnet: string[]
  hub: string[]
  turbo?: string
  full?: string
  tier: Tier
  target?: Target
  port: number
  vram?: string
  provider?: string
  hubUrl?: string
  state: string
  out: string
}

function parseMemory(text: string): string {
  const { error } = gigabytes.safeParse(text)
  if (error) throw new InvalidArgumentError(`It ${error.issues[0]!.message}.`)
  return text
}

const collect = (value: string, previous: string[]) => [...previous, value]

const command = new Command('serve')
  .description(
    'Serves your own weights on this machine: downloads and compiles them, starts both servers, and generates an image. Ctrl-C stops both.',
  )
  .option('--checkpoint <path>', 'a diffusers directory or a single safetensors file (repeatable)', collect, [])
  .option('--package <path>', 'a package of `npm run compile` (repeatable)', collect, [])
  .option('--lora <file>', 'a LoRA for the models, or a compiled one (repeatable)', collect, [])
  .option('--controlnet <path>', 'a ControlNet for the models, compiled or not (repeatable)', collect, [])
  .option('--hub <owner/name>', 'a repository of the Hugging Face hub, with HF_TOKEN (repeatable)', collect, [])
  .option('--turbo <path or name>', 'a checkpoint, package or repository for the turbo route')
  .option('--full <path or name>', 'a checkpoint, package or repository for the full route')
  .addOption(new Option('--tier <tier>', 'precision').choices(TIERS).default('fp8'))
  .addOption(new Option('--target <target>', 'compilation target; by the GPU unless given').choices(TARGETS))
  .option('--port <number>', 'port of the worker', parseWholeNumber, 8787)
  .option('--vram <gigabytes>', 'limit of GPU memory in GiB', parseMemory)
  .option('--provider <file>', "the wheel of onnxruntime's CUDA provider, for a host without network")
  .addOption(new Option('--hub-url <url>', 'address of another hub').env('HF_ENDPOINT'))
  .option(
    '--state <directory>',
    'stored objects, secrets and key, kept between starts',
    path.join(ROOT, '.octet/serve'),
  )
  .option('--out <file>', 'file of the first image', 'octet.png')

async function sourcesOf(flags: Flags): Promise<Source[]> {
  const sourcesOfKind = (kind: Source['kind'], paths: string[]) => paths.map((each): Source => ({ kind, given: each }))
  const routed = (['turbo', 'full'] as const).filter((route) => flags[route] !== undefined)
  const sources = [
    ...sourcesOfKind('checkpoint', flags.checkpoint),
    ...sourcesOfKind('package', flags.package),
    ...sourcesOfKind('hub', flags.hub),
    ...(await Promise.all(routed.map((route: Route) => sourceOf(flags[route]!, route)))),
  ]
  if (sources.length === 0) throw new Error('name a model with --checkpoint, --package, --hub, --turbo or --full')
  return sources
}

const PROMPT = 'a red heart on a blue background'

function describeUse({ url, key, adminToken }: Local, models: LocalModels, out: string, seconds: number): string {
  const [lora] = models.loras ?? []
  const body = JSON.stringify({ prompt: PROMPT, ...(lora && { loras: [{ id: lora.id, scale: 1 }] }) })
  return `
The first image is ${path.resolve(out)}, ${seconds.toFixed(1)} s after the start. Octet is at ${url}/ until Ctrl-C.
  export URL=${url} KEY=${key} OCTET_ADMIN_TOKEN=${adminToken}
  curl -s $URL/v1/images/generations -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d '${body}'
`
}

async function main(): Promise<void> {
  const flags = prepareCommand(command).parse().opts<Flags>()
  const started = performance.now()
  endOnSignals()
  const sources = await sourcesOf(flags)
  const [hub, state] = [flags.hubUrl, path.resolve(flags.state)]
  await checkSources(sources, { hub })
  await checkLoras(flags.lora)
  await checkControlnets(flags.controlnet)
  await assertFree(flags.port, 'choose another one with --port')
  await mkdir(path.dirname(path.resolve(flags.out)), { recursive: true })
  const target = await prepareHardware(flags.target, flags.provider)
  const served = await serveModels(sources, await servedDirectory(state), { tier: flags.tier, target, hub })
  const loras = await serveLoras(flags.lora, served.packages)
  const controlnets = await serveControlnets(flags.controlnet, served.packages, { tier: flags.tier, target })
  const models = { ...served, loras, controlnets }
  console.error(`Starting the GPU function and the worker for ${models.preload.join(', ')}`)
  for (const { id, models: fitting } of loras) console.error(`LoRA ${id}, for ${fitting.join(', ')}`)
  for (const { id, models: fitting } of controlnets) console.error(`ControlNet ${id}, for ${fitting.join(', ')}`)
  const vram = flags.vram === undefined ? {} : { vram: flags.vram }
  const local = await startLocal({ models, port: flags.port, state, ...vram, onLog: reportProblem })
  void local.gpuEnded.then((reason) => fail(new Error(`${reason}; start this command again`)))
  const { data } = await requestImage(local, { prompt: PROMPT, seed: 1 })
  await writeFile(flags.out, Buffer.from(data[0]!.b64_json, 'base64'))
  print(describeUse(local, models, flags.out, (performance.now() - started) / 1000))
}

const WARNING = 40

/** Prints warnings and errors of the GPU function's log. */
function reportProblem(line: string): void {
  if (Number(/"level":(\d+)/.exec(line)?.[1] ?? 0) >= WARNING) console.error(line)
}

function fail(error: Error): never {
  printError('serve', error)
  process.exit(1)
}

await main().catch(fail)
