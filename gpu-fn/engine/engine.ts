// The engine's interface: its models, and how to load and run them.
import type { JobRequest } from '../contract.ts'
import type { ControlImage } from '../pipeline/control.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import type { InputImage } from '../pipeline/input/start.ts'
import type { Size } from '../pipeline/pipeline.ts'
import type { OpeningTimes } from './messages.ts'
import type { Part } from './start/parts.ts'
import type { StepBatch } from './step-batches.ts'

/**
 * A compiled model that this process can serve. Sides are in pixels. `blocks`: the number of the denoiser's blocks, and the default of
 * skip-layer guidance; absent if the package does not state them.
 */
export type Model = {
  model: string
  tier: JobRequest['tier']
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
   * opening anything, if images of the size exceed the memory budget. `warm`: also generates an image while the networks of a newly opened
   * model load, in the largest supported size of these, or in the model's own.
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
