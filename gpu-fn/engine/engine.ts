// The engine as the server sees it: which models there are, load one, run one. The work is done on a thread of its own.
import type { JobRequest } from '../contract.ts'
import type { Manifest, Package } from '../manifest.ts'
import type { Size } from '../pipeline/pipeline.ts'
import type { PipelineEvent } from '../pipeline/txt2img.ts'
import { findPackages } from '../weights/packages.ts'
import type { Verifier } from '../weights/verification.ts'
import { deviceName } from './device.ts'
import { jobFault } from './job-error.ts'
import type { Command, Opened } from './messages.ts'
import { readAhead } from './read-ahead.ts'
import { createThread, type ThreadOptions } from './thread.ts'
import { createWatchdog, type Stall, type Watch } from './watchdog.ts'

type Tier = JobRequest['tier']

/** A compiled model that this process can serve. Sides are in pixels. */
export type Model = { model: string; tier: Tier; package: string; side: { max: number; multipleOf: number } }

/** What the server needs of the engine. `load` and `run` are called one at a time. */
export interface Engine {
  /** Empty until `start` has resolved. */
  readonly models: readonly Model[]
  /** Finds the packages and starts the thread. Throws when there is nothing to serve. */
  start(): Promise<void>
  /**
   * Opens the model; `seconds` is 0 if it was already open. `networks` lists those of each newly opened graph. Throws JobError, with
   * `invalid_request` before opening anything if images of `size` exceed the memory budget.
   */
  load(model: Model, size?: Size): Promise<{ device: string; seconds: number; networks?: Opened }>
  /** Runs the model once for each of the sizes that it can make, its own unless given, so that no job pays for a shape's first run. */
  warm(model: Model, sizes?: readonly Size[]): Promise<{ sizes: Size[] }>
  /** Runs one request. Throws JobError, or the signal's reason when aborted, which it looks at between steps. */
  run(model: Model, request: JobRequest, signal: AbortSignal): AsyncIterable<PipelineEvent>
  /** Ends the thread once the call in progress has ended. */
  stop(): Promise<void>
}

export interface EngineOptions extends ThreadOptions {
  /** The directory that holds the packages, or a name for where they come from. */
  packages: string
  /** Brings the packages from elsewhere, which may take minutes. */
  bringPackages?: () => Promise<Package[]>
  /** Verifies the files of a package when it is first loaded. */
  verifier: Verifier
  /** Minimum time without a step before a call counts as hung (watchdog.ts). */
  stallSeconds: number
  /** Called once when a call hangs. A hung call can only be stopped by ending the process. */
  onStall: (stall: Stall) => void
}

/** An engine over the packages of a directory. A thread that dies is replaced when the next call comes. */
export function createEngine(options: EngineOptions): Engine {
  const packages = new Map<string, Package>()
  const models: Model[] = []
  const devices = new Map<Manifest['target'], string>()
  const thread = createThread(options)
  const watchdog = createWatchdog(options.stallSeconds * 1000, options.onStall)
  const { log, verifier } = options

  /** Opens the package on the engine thread while its files are read ahead. */
  async function open(pkg: Package, size: Size | undefined, watch: Watch) {
    let seconds = 0
    let networks: Opened = {}
    const opened = new AbortController()
    void readAhead(pkg, opened.signal)
    try {
      const command: Command = { type: 'load', package: pkg, ...(size && { size: sizeOf(size) }) }
      for await (const reply of thread.send(command, watch.progress)) {
        if (reply.type === 'note') log.warn(reply.note)
        else if (reply.type === 'loaded') ({ seconds, networks } = reply)
      }
    } finally {
      opened.abort()
    }
    return { device: devices.get(pkg.manifest.target)!, seconds, networks }
  }

  async function close(pkg: Package): Promise<void> {
    for await (const _ of thread.send({ type: 'close', package: pkg }));
  }

  return {
    models,
    async start() {
      for (const pkg of await (options.bringPackages?.() ?? findPackages(options.packages))) {
        packages.set(pkg.digest, pkg)
        const { target } = pkg.manifest
        if (!devices.has(target)) devices.set(target, await deviceName(target))
        models.push(describe(pkg))
      }
      checkOffer(models, options.packages)
      await thread.start()
    },
    async load(model, size) {
      const pkg = packages.get(model.package)!
      const watch = watchdog.watch('load', pkg.manifest.target)
      try {
        // Concurrently: both read the files, and hashing overlaps with the GPU's share of opening.
        const [opened, verified] = await Promise.allSettled([
          open(pkg, size, watch),
          verifier.verify(pkg, watch.progress),
        ])
        if (verified.status === 'rejected') {
          await close(pkg)
          throw jobFault('model_not_available', verified.reason)
        }
        if (opened.status === 'rejected') throw opened.reason
        return opened.value
      } finally {
        watch.end()
      }
    },
    async warm(model, sizes) {
      const pkg = packages.get(model.package)!
      const { width, height } = pkg.manifest.defaults
      const fits = (size: Size) =>
        [size.width, size.height].every((side) => side <= model.side.max && side % model.side.multipleOf === 0)
      const command: Command = { type: 'warm', package: pkg, sizes: (sizes ?? [{ width, height }]).filter(fits) }
      const watch = watchdog.watch('run', pkg.manifest.target)
      try {
        for await (const _ of thread.send(command, watch.progress));
      } finally {
        watch.end()
      }
      return { sizes: command.sizes }
    },
    async *run(model, request, signal) {
      const pkg = packages.get(model.package)!
      const cancel = new Int32Array(new SharedArrayBuffer(4))
      const raise = () => {
        Atomics.store(cancel, 0, 1)
        Atomics.notify(cancel, 0)
      }
      signal.addEventListener('abort', raise)
      if (signal.aborted) raise()
      const watch = watchdog.watch('run', pkg.manifest.target)
      try {
        for await (const reply of thread.send({ type: 'run', package: pkg, request, cancel }, watch.progress)) {
          if (reply.type === 'note') log.warn(reply.note)
          if (reply.type === 'aborted') throw signal.reason
          if (reply.type === 'event') yield reply.event
        }
      } finally {
        watch.end()
        signal.removeEventListener('abort', raise)
      }
    },
    stop: thread.stop,
  }
}

/** Only these fields of a request, because the thread receives a copy. */
const sizeOf = ({ width, height }: Size): Size => ({ width, height })

function checkOffer(models: readonly Model[], directory: string): void {
  if (models.length === 0) throw new Error(`no package in ${directory}: make one with \`npm run compile\``)
  const names = models.map(({ model, tier }) => `${model}:${tier}`)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice) throw new Error(`${directory} has more than one package of ${twice}: keep one`)
}

function describe({ manifest, digest }: Package): Model {
  const multipleOf = manifest.latent.downsample * manifest.latent.patch_size
  const side = { max: manifest.position.max * multipleOf, multipleOf }
  return { model: manifest.model, tier: manifest.tier, package: digest, side }
}
