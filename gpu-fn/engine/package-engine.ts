// The engine over the packages of a directory. Work is done on a separate thread.
import { freemem } from 'node:os'
import type { JobRequest } from '../contract.ts'
import { type ControlnetPackage, IMAGE_ENCODER, type LoraPackage, type Package, type Target } from '../manifest.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import type { Size } from '../pipeline/pipeline.ts'
import { findControlnets } from '../weights/additions/controlnet-packages.ts'
import { findLoras } from '../weights/additions/lora-packages.ts'
import type { FetchedPackage } from '../weights/cache.ts'
import { findPackages } from '../weights/packages.ts'
import type { Verifier } from '../weights/verification.ts'
import { checkDevices, listGpus, readDeviceMemory, readDeviceName } from './device.ts'
import type { ControlnetOnServer, Engine, LoadedModel, Lora, Model, RunOptions } from './engine.ts'
import { createJobFault, JobError } from './job-error.ts'
import type { Command, Message } from './messages.ts'
import type { Adapter } from './package/adapters.ts'
import { PackageFiles } from './start/package-files.ts'
import { type Part, timePart } from './start/parts.ts'
import { readAhead } from './start/read-ahead.ts'
import { largestSizeOf, sizeOf, supportedSizesOf } from './start/sizes.ts'
import { EngineThread, type ThreadOptions } from './thread.ts'
import { createWatchdog, type Stall, type Watch, type Watchdog } from './watchdog.ts'

type Tier = JobRequest['tier']

/** The share of free memory that prefetched files may take. Linux counts the page cache as used. */
const PREFETCH_SHARE = 0.5

export interface EngineOptions extends ThreadOptions {
  /** The directory of the packages, or the name of their source in messages. */
  packages: string
  /** Replaces the directory as the source of packages. Their downloads may be in progress (weights/cache.ts). */
  fetchPackages?: () => Promise<FetchedPackage[]>
  /** Names and tiers of the models to load first, in order. */
  preload?: readonly (readonly [model: string, tier: Tier])[]
  /** Replace the directory as the source of adapters and of ControlNets. */
  fetchLoras?: () => Promise<LoraPackage[]>
  fetchControlnets?: () => Promise<ControlnetPackage[]>
  /** Verifies the files of a package when it is first loaded. */
  verifier: Verifier
  /** Minimum time without a step before a call counts as hung (watchdog.ts). */
  stallSeconds: number
  /** Called once, for the first hung call. Only the end of the process stops a hung call. */
  onStall: (stall: Stall) => void
}

/** An engine over the packages of a directory. The next call after a crash of its thread starts a new thread. */
export class PackageEngine implements Engine {
  readonly models: Model[] = []
  readonly loras = new Map<string, Lora>()
  readonly controlnets = new Map<string, ControlnetOnServer>()
  readonly #adapters = new Map<string, LoraPackage>()
  readonly #controlnets = new Map<string, ControlnetPackage>()
  readonly #options: EngineOptions
  readonly #packages = new Map<string, Package>()
  readonly #devices = new Map<Target, string>()
  /** Parts of the start, until the first load reports them. */
  readonly #parts: Part[] = []
  readonly #files: PackageFiles
  /** Present once the engine has started. */
  #thread: EngineThread | undefined
  readonly #watchdog: Watchdog

  constructor(options: EngineOptions) {
    this.#options = options
    this.#files = new PackageFiles(options.verifier, this.#parts)
    this.#watchdog = createWatchdog(options.stallSeconds * 1000, options.onStall)
  }

  async start(): Promise<void> {
    const { packages, fetchPackages, fetchLoras, fetchControlnets, preload = [] } = this.#options
    const listing = timePart(this.#parts, 'GPUs', listGpus)
    const found = await timePart(this.#parts, 'packages', async () => {
      const fetched = await fetchPackages?.()
      for (const each of fetched ?? []) this.#files.track(each)
      return fetched?.map((each) => each.package) ?? findPackages(packages)
    })
    const [model, tier] = preload[0] ?? []
    const first = found.find(({ manifest }) => manifest.model === model && manifest.tier === tier)
    if (first) this.#files.begin(first)
    const onGpu = found.some(({ manifest }) => manifest.target !== 'cpu')
    const gpus = onGpu ? await listing : []
    for (const pkg of found) {
      this.#packages.set(pkg.digest, pkg)
      const { target } = pkg.manifest
      if (!this.#devices.has(target)) this.#devices.set(target, readDeviceName(target, gpus))
      this.models.push(describe(pkg))
    }
    checkOffer(this.models, packages)
    for (const lora of await (fetchLoras?.() ?? findLoras(packages))) {
      const { name, rank } = lora.manifest
      this.#adapters.set(name, lora)
      this.loras.set(name, { package: lora.digest, rank })
    }
    for (const controlnet of await (fetchControlnets?.() ?? findControlnets(packages))) {
      const { name } = controlnet.manifest
      this.#controlnets.set(name, controlnet)
      this.controlnets.set(name, { package: controlnet.digest })
    }
    if (onGpu) checkDevices(this.#options.devices ?? 1, gpus)
    const deviceBytes = this.#options.deviceBytes ?? (onGpu ? readDeviceMemory(gpus) : undefined)
    const thread = new EngineThread({ ...this.#options, deviceBytes })
    this.#thread = thread
    await timePart(this.#parts, 'engine thread', () => thread.start())
  }

  async load(
    model: Model,
    job?: Size & Pick<JobRequest, 'controls'>,
    warm?: { sizes: readonly Size[] | undefined },
  ): Promise<LoadedModel> {
    const pkg = this.#packages.get(model.package)!
    const controlnet = await this.#controlnetOf(job ?? {})
    const watch = this.#watchdog.watch('load', pkg.manifest.target)
    const sizes = { ...(job && { size: sizeOf(job) }), warm: warm && largestSizeOf(pkg, model, warm.sizes) }
    try {
      // Verification and opening are concurrent, because both read the files and opening waits for the GPU.
      const [opened, verified] = await Promise.allSettled([
        this.#open({ type: 'load', package: pkg, controlnet, ...sizes }, watch),
        this.#files.verify(pkg, watch),
      ])
      if (verified.status === 'rejected') {
        await this.#close(pkg)
        throw createJobFault('model_not_available', verified.reason)
      }
      if (opened.status === 'rejected') throw opened.reason
      return { ...opened.value, parts: [...this.#parts.splice(0), ...(opened.value.parts ?? [])] }
    } finally {
      watch.end()
    }
  }

  waitForDownloads(): Promise<void> {
    return this.#files.waitForDownloads()
  }

  async warm(model: Model, sizes?: readonly Size[]): Promise<{ sizes: Size[] }> {
    const pkg = this.#packages.get(model.package)!
    const command: Command = { type: 'warm', package: pkg, sizes: supportedSizesOf(pkg, model, sizes) }
    const watch = this.#watchdog.watch('run', pkg.manifest.target)
    try {
      for await (const _ of this.#thread!.send(command, { onProgress: watch.progress }));
    } finally {
      watch.end()
    }
    return { sizes: command.sizes }
  }

  async *run(
    model: Model,
    request: JobRequest,
    signal: AbortSignal,
    { input, control, parallel = false, batch }: RunOptions = {},
  ): AsyncGenerator<PipelineEvent> {
    const pkg = this.#packages.get(model.package)!
    const adapters = await this.#adaptersOf(request)
    const controlnet = await this.#controlnetOf(request)
    const { flag, raise, dispose } = cancelFlag(signal)
    const command: Command = {
      ...{ type: 'run', package: pkg, request, adapters, parallel, cancel: flag },
      ...(input && { input }),
      controlnet: controlnet && control ? { package: controlnet, image: control } : null,
    }
    const replies = this.#thread!.send(command, { ...(batch && { batch }) })
    try {
      for (;;) {
        const { value: reply, done } = await this.#nextReply(pkg, replies)
        if (done) return
        if (reply.type === 'note') this.#options.log.warn(reply.note)
        if (reply.type === 'aborted') throw signal.reason
        if (reply.type === 'event') yield reply.event
      }
    } finally {
      raise()
      await replies.return(undefined)
      dispose()
    }
  }

  /** The adapters of a request, verified. Throws JobError. */
  async #adaptersOf({ loras = [] }: JobRequest): Promise<Adapter[]> {
    const adapters: Adapter[] = []
    for (const { id, scale } of loras) {
      const lora = this.#adapters.get(id)
      if (!lora) throw new JobError('invalid_request', describeUnknown('lora', id))
      await this.#options.verifier.verify(lora).catch((error) => {
        throw createJobFault('model_not_available', error)
      })
      adapters.push({ lora, scale })
    }
    return adapters
  }

  /** The ControlNet of a request, verified. Throws JobError. */
  async #controlnetOf({ controls = [] }: Pick<JobRequest, 'controls'>): Promise<ControlnetPackage | null> {
    const [choice] = controls
    if (!choice) return null
    const found = this.#controlnets.get(choice.id)
    if (!found) throw new JobError('invalid_request', describeUnknown('controlnet', choice.id))
    await this.#options.verifier.verify(found).catch((error) => {
      throw createJobFault('model_not_available', error)
    })
    return found
  }

  /** The next reply of a run. Only this wait is watched: a paused run is not a hung one. */
  async #nextReply({ manifest }: Package, replies: AsyncGenerator<Message>): Promise<IteratorResult<Message>> {
    const watch = this.#watchdog.watch('run', manifest.target)
    try {
      const reply = await replies.next()
      watch.progress()
      return reply
    } finally {
      watch.end()
    }
  }

  async prefetch(model: Model, signal: AbortSignal): Promise<void> {
    const pkg = this.#packages.get(model.package)!
    const bytes = Object.values(pkg.manifest.files).reduce((sum, file) => sum + file.bytes, 0)
    if (bytes < freemem() * PREFETCH_SHARE) await readAhead(pkg, signal)
  }

  async stop(): Promise<void> {
    this.#files.stop()
    await this.#thread?.stop()
  }

  /** Opens the package on the engine thread while its files are read ahead. */
  async #open(command: Extract<Command, { type: 'load' }>, watch: Watch): Promise<LoadedModel> {
    const { package: pkg } = command
    const device = this.#devices.get(pkg.manifest.target)!
    const loaded: LoadedModel & { closed: string[] } = { device, seconds: 0, networks: {}, closed: [] }
    const opened = new AbortController()
    try {
      for await (const reply of this.#thread!.send(command, { onProgress: watch.progress })) {
        if (reply.type === 'note') this.#options.log.warn(reply.note)
        // Only a package that was not open sends its plan. The weights are loaded next.
        else if (reply.type === 'plan') this.#files.readAhead(pkg, opened.signal)
        else if (reply.type === 'closed') loaded.closed.push(...reply.models)
        else if (reply.type === 'occupied') loaded.occupied = true
        else if (reply.type === 'loaded') {
          const { type: _, ...about } = reply
          Object.assign(loaded, about)
        }
      }
    } finally {
      opened.abort()
      this.#files.end()
    }
    return loaded
  }

  async #close(pkg: Package): Promise<void> {
    for await (const _ of this.#thread!.send({ type: 'close', package: pkg }));
  }
}

/** Shared memory that becomes 1 when the signal aborts, for a thread that does not process messages during a run. */
function cancelFlag(signal: AbortSignal) {
  const flag = new Int32Array(new SharedArrayBuffer(4))
  const raise = () => {
    Atomics.store(flag, 0, 1)
    Atomics.notify(flag, 0)
  }
  signal.addEventListener('abort', raise)
  if (signal.aborted) raise()
  return { flag, raise, dispose: () => signal.removeEventListener('abort', raise) }
}

/** Message for an adapter or a ControlNet without a package in this process. It lists no alternatives, because some are private to accounts. */
export const describeUnknown = (kind: 'lora' | 'controlnet', id: string): string =>
  `${kind} "${id}" has no package on this server, but the catalog lists it; the operator must install the package`

function checkOffer(models: readonly Model[], directory: string): void {
  if (models.length === 0) throw new Error(`no package in ${directory}: compile one with \`npm run compile\``)
  const names = models.map(({ model, tier }) => `${model}:${tier}`)
  const duplicate = names.find((name, index) => names.indexOf(name) !== index)
  if (duplicate) throw new Error(`${directory} has more than one package of ${duplicate}: keep one`)
}

function describe({ manifest, digest }: Package): Model {
  const multipleOf = manifest.latent.downsample * manifest.latent.patch_size
  const side = { max: manifest.position.max * multipleOf, multipleOf }
  const { blocks } = manifest
  return {
    ...{ model: manifest.model, tier: manifest.tier, package: digest, side },
    inputImage: IMAGE_ENCODER in manifest.networks,
    ...(blocks && { blocks: { count: blocks.gates.length, skipped: blocks.skipped ?? [] } }),
  }
}
