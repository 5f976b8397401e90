// The engine: its models, and how to load and run them. Work is done on a separate thread.
import { freemem } from 'node:os'
import type { JobRequest } from '../contract.ts'
import { type ControlnetPackage, IMAGE_ENCODER, type LoraPackage, type Package, type Target } from '../manifest.ts'
import type { ControlImage } from '../pipeline/control.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import type { InputImage } from '../pipeline/input/start.ts'
import type { Size } from '../pipeline/pipeline.ts'
import { findControlnets } from '../weights/additions/controlnet-packages.ts'
import { findLoras } from '../weights/additions/lora-packages.ts'
import type { FetchedPackage } from '../weights/cache.ts'
import { findPackages } from '../weights/packages.ts'
import type { Verifier } from '../weights/verification.ts'
import { checkDevices, listGpus, readDeviceMemory, readDeviceName } from './device.ts'
import { createJobFault, JobError } from './job-error.ts'
import type { Command, Message, OpeningTimes } from './messages.ts'
import type { Adapter } from './package/adapters.ts'
import { PackageFiles } from './package-files.ts'
import { type Part, timePart } from './parts.ts'
import { readAhead } from './read-ahead.ts'
import { largestSizeOf, sizeOf, supportedSizesOf } from './sizes.ts'
import type { StepBatch } from './step-batches.ts'
import { EngineThread, type ThreadOptions } from './thread.ts'
import { createWatchdog, type Stall, type Watch, type Watchdog } from './watchdog.ts'

type Tier = JobRequest['tier']

/** The share of free memory that prefetched files may take. Linux counts the page cache as used. */
const PREFETCH_SHARE = 0.5

/**
 * A compiled model that this process can serve. Sides are in pixels. `blocks`: the number of the denoiser's blocks, and the default of
 * skip-layer guidance; absent if the package does not state them.
 */
export type Model = {
  model: string
  tier: Tier
  package: string
  side: { max: number; multipleOf: number }
  blocks?: { count: number; skipped: readonly number[] }
  /** Whether the model takes an input image. */
  inputImage?: boolean
}

/** A compiled adapter that jobs may name; `package` is the digest of its manifest. */
export type Lora = { readonly package: string; readonly rank: number }

/** A compiled ControlNet that jobs may name; `package` is the digest of its manifest. */
export type ControlnetOnServer = { readonly package: string }

/** The result of `load`. */
export type LoadedModel = {
  device: string
  /** 0 if the model was open. */
  seconds: number
  /** Seconds of each newly opened network. */
  networks?: OpeningTimes
  /** Parts of the load; those of the first load include the engine's start. */
  parts?: readonly Part[]
  /** Models (model:tier) that were closed to make room. */
  closed?: string[]
  /** Planned memory of all open models. */
  bytes?: number
  /** The model was not loaded, because it does not fit into memory beside the models of unfinished runs. */
  occupied?: boolean
  /** Networks take turns on the device, so that alternating between jobs reloads them. */
  inTurns?: boolean
  /** The number of devices over which a run of the model can divide the samples of guidance; 1 by default. */
  devices?: number
  /** Jobs may share runs of the denoiser. */
  batched?: boolean
}

/**
 * `control`: the image of the request's ControlNet. `parallel`: divide the samples of guidance over the devices, which may round differently
 * from a batch on one device; a run with a ControlNet is not divided. `batch`: the batch of the run's next step; null for a run on its own.
 */
export type RunOptions = {
  input?: InputImage | undefined
  control?: ControlImage | undefined
  parallel?: boolean
  batch?: () => StepBatch | null
}

/** The server's interface to the engine. Runs may overlap: each takes a step only when its next event is requested. */
export interface Engine {
  /** Empty until `start` has resolved. */
  readonly models: readonly Model[]
  /** The adapters by ID; empty until `start` has resolved. */
  readonly loras: ReadonlyMap<string, Lora>
  /** The ControlNets by ID; empty until `start` has resolved. */
  readonly controlnets: ReadonlyMap<string, ControlnetOnServer>
  /** Finds the packages and starts the thread. Throws if there are no packages. */
  start(): Promise<void>
  /**
   * Opens the model, and the ControlNet of a job's `controls`. Calls must not overlap. Throws JobError; with `invalid_request`, before
   * opening anything, if images of the size exceed the memory budget. `warm`: while the networks of a newly opened model load, an image of the
   * largest of these sizes that it supports, by default its own, runs.
   */
  load(
    model: Model,
    job?: Size & Pick<JobRequest, 'controls'>,
    warm?: { sizes: readonly Size[] | undefined },
  ): Promise<LoadedModel>
  /**
   * Generates images of each size that the model supports, by default its own, with and without guidance, because the first run of a shape is
   * slow.
   */
  warm(model: Model, sizes?: readonly Size[]): Promise<{ sizes: Size[] }>
  /**
   * Runs one request. Throws JobError, or the reason of an aborted signal, which is checked between steps. `batch` is read before each event
   * is requested: the steps of a batch start once all of its runs have requested theirs.
   */
  run(model: Model, request: JobRequest, signal: AbortSignal, options?: RunOptions): AsyncIterable<PipelineEvent>
  /** Resolves when all packages are on disk. Throws the error of a download. */
  waitForDownloads?(): Promise<void>
  /** Reads the model's weights into the page cache, if they fit into free memory. It never throws. */
  prefetch?(model: Model, signal: AbortSignal): Promise<void>
  /** Ends the thread after the call in progress. */
  stop(): Promise<void>
}

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
  /** Called once when a call hangs. A hung call can only be stopped by ending the process. */
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
