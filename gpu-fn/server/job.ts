// One job: its request, and the log of its events, which any number of readers can follow from the start.
import { EventEmitter } from 'node:events'
import type { JobEvent, JobRequest } from '../contract.ts'
import type { StepBatch } from '../engine/step-batches.ts'
import type { InputFiles } from '../pipeline/input/input-image.ts'
import type { TraceParent } from './requests/traceparent.ts'

/** An event and, for an image, its bytes. */
export type Entry = { event: JobEvent; data?: Uint8Array }

export interface Job {
  readonly id: string
  readonly request: JobRequest
  /** The request without its attempt and schedule: two jobs with equal parameters produce the same images. */
  readonly parameters: string
  /** The highest attempt of this job. */
  attempt: number
  readonly entries: Entry[]
  /** The input files; empty once the job has ended. */
  files: InputFiles
  /** Approximate memory use of the job in bytes. */
  bytes: number
  readonly cancellation: AbortController
  /** Whether the samples of guidance are divided over the devices, because the job would miss its deadline on one. */
  parallel: boolean
  /** `performance.now()` */
  readonly acceptedAt: number
  readonly wait: Wait
  /** The batch of its next step; null for a run on its own. */
  batch: StepBatch | null
  /** The caller's span; null starts a trace. */
  readonly trace: TraceParent | null
  readonly changes: EventEmitter<{ entry: [] }>
}

/** The time that a job waits for the device: from its acceptance, and between its turns. Milliseconds. */
export type Wait = { ms: number /** `performance.now()`; null during a turn. */; since: number | null }

/** Milliseconds of waiting so far. */
export const computeWaitedMs = ({ wait: { ms, since } }: Job): number =>
  ms + (since === null ? 0 : performance.now() - since)

/** Without a schedule, jobs of few steps without guidance count as interactive. */
const INTERACTIVE = { steps: 8, guidanceScale: 1 }
export const isInteractive = ({ schedule, steps, guidance_scale }: JobRequest): boolean =>
  schedule?.interactive ?? (steps <= INTERACTIVE.steps && guidance_scale <= INTERACTIVE.guidanceScale)

const ENTRY_BYTES = 256
const TERMINAL: readonly JobEvent['type'][] = ['succeeded', 'failed', 'canceled']

export function createJob(id: string, request: JobRequest, files: InputFiles, trace: TraceParent | null = null): Job {
  const parameters = parametersOf(request)
  const acceptedAt = performance.now()
  return {
    id,
    request,
    parameters,
    attempt: request.attempt,
    entries: [],
    files,
    // UTF-16, stored in both `request` and `parameters`.
    bytes: 4 * parameters.length + bytesOf(files),
    cancellation: new AbortController(),
    parallel: false,
    acceptedAt,
    wait: { ms: 0, since: acceptedAt },
    batch: null,
    trace,
    changes: new EventEmitter<{ entry: [] }>().setMaxListeners(0),
  }
}

const bytesOf = (files: InputFiles) => Object.values(files).reduce((sum, { byteLength }) => sum + byteLength, 0)

/** The parts of a request that identify the job: all but the attempt and the schedule. */
export function parametersOf(request: JobRequest): string {
  const { attempt: _, schedule: __, ...parameters } = request
  return JSON.stringify(parameters)
}

export function append(job: Job, event: JobEvent, data?: Uint8Array): void {
  job.entries.push(data ? { event, data } : { event })
  job.bytes += ENTRY_BYTES + (data?.byteLength ?? 0)
  if (TERMINAL.includes(event.type)) {
    job.bytes -= bytesOf(job.files)
    job.files = {}
  }
  job.changes.emit('entry')
}

/** The event that ended the job; undefined while it waits or runs. */
export function outcomeOf(job: Job): JobEvent | undefined {
  const last = job.entries.at(-1)?.event
  return last && TERMINAL.includes(last.type) ? last : undefined
}

/** Waits for the next entry; false if there is none within `milliseconds`. */
export function waitForChange(job: Job, milliseconds: number): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (changed: boolean) => {
      clearTimeout(timer)
      job.changes.off('entry', onEntry)
      resolve(changed)
    }
    const onEntry = () => settle(true)
    const timer = setTimeout(settle, milliseconds, false)
    job.changes.on('entry', onEntry)
  })
}
