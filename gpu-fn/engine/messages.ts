// Messages between the main thread and the engine's thread.
import type { JobErrorCode, JobRequest } from '../contract.ts'
import type { ControlnetPackage, NetworkName, Package } from '../manifest.ts'
import type { ControlImage } from '../pipeline/control.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import type { InputImage } from '../pipeline/input/start.ts'
import type { Size } from '../pipeline/pipeline.ts'
import type { Adapter } from './package/adapters.ts'
import type { MemoryPlan } from './package/memory-plan.ts'
import type { Part } from './start/parts.ts'
import type { StepBatch } from './step-batches.ts'

export type Settings = {
  memoryBytes: number
  /** Budget of each device's memory. */
  deviceBytes?: number | undefined
  /** Number of devices, 1 by default. */
  devices?: number | undefined
  /** Limit on cached prompt embeddings. */
  promptCacheBytes?: number | undefined
  /** The number of jobs that may share a run of the step graph; 1 by default. */
  sharing?: number | undefined
  /** Map the files of weights for the first copy to a GPU, instead of reading them. */
  mapsWeights?: boolean | undefined
  /** Repeat runs of step graphs as CUDA graphs where possible. */
  capture?: boolean | undefined
}

export type OpeningTimes = Partial<Record<NetworkName, number>>

/**
 * Commands overlap; `id` identifies the replies to each. A run pauses after every event until its `advance`, whose `batch` has the runs that
 * advance together. `cancel[0]` becomes 1 when the job is canceled: the thread processes no messages while the Node binding runs.
 */
export type Request = { id: number; command: Command } | { id: number; advance: true; batch?: StepBatch }
export type Reply = { id: number; message: Message }

export type Command =
  /**
   * `size`: of the job's images. Refused if images of this size exceed the memory budget. `controlnet`: that of the job. `warm`: the size of
   * an image that runs while the networks of a newly opened package load.
   */
  | { type: 'load'; package: Package; size?: Size; controlnet: ControlnetPackage | null; warm?: Size | undefined }
  /** Runs every graph for images of each size. */
  | { type: 'warm'; package: Package; sizes: Size[] }
  | { type: 'close'; package: Package }
  | {
      type: 'run'
      package: Package
      request: JobRequest
      adapters: readonly Adapter[]
      input?: InputImage
      controlnet: { package: ControlnetPackage; image: ControlImage } | null
      /** Divide the samples of guidance over the devices. */
      parallel: boolean
      cancel: Int32Array<SharedArrayBuffer>
    }

/**
 * `ready` is sent once at startup, with id 0; `note` is a remark about a newly opened package; `done`, `aborted`, `failed` and `refused` end
 * the replies to a command.
 */
export type Message =
  | { type: 'ready' }
  | { type: 'note'; note: string }
  /**
   * `networks`: seconds for each newly opened network. `parts`: those of a newly opened package. `inTurns`: networks take turns on the device,
   * so alternating jobs reload them. `batched`: jobs may share runs of the step graph. `bytes`: planned memory of all open packages.
   * `devices`: the number of devices that have the denoiser.
   */
  | {
      type: 'loaded'
      seconds: number
      networks: OpeningTimes
      parts: readonly Part[]
      inTurns: boolean
      batched: boolean
      bytes: number
      devices: number
    }
  /** The package does not fit into memory beside the packages of unfinished runs. */
  | { type: 'occupied' }
  | { type: 'plan'; plan: MemoryPlan }
  /** Models that were closed to make room, as model:tier. */
  | { type: 'closed'; models: string[]; budget: number }
  /** Heartbeat of a command during phases without other replies. */
  | { type: 'progress' }
  | { type: 'event'; event: PipelineEvent }
  | { type: 'aborted' }
  | { type: 'failed'; code: Exclude<JobErrorCode, 'invalid_request'>; error: Error }
  /** The request is invalid; `message` is for the caller. */
  | { type: 'refused'; message: string }
  | { type: 'done' }
