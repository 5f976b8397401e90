// Receives the events of jobs, for metrics and traces.
import type { LoadedModel } from '../engine/engine.ts'
import type { Job } from './job.ts'
import type { RefusalCode } from './requests/refusal.ts'
import type { Turn } from './run-job.ts'

/** Members must not throw. */
export type Observer = {
  /** A turn of a job has ended now. `seconds`: its duration. `size`: the number of jobs that shared it. */
  turn?(job: Job, turn: Turn, seconds: number, size: number): void
  /** A job has ended, and its log has the outcome. */
  end?(job: Job): void
  refused?(code: RefusalCode): void
}

/** The load of a model at the start of a job. */
export type Load = Pick<LoadedModel, 'seconds' | 'closed' | 'bytes' | 'devices'>

/** Passes every call on to all observers, which may be added later. */
export function observeWith(observers: readonly Observer[]): Required<Observer> {
  return {
    turn(...given) {
      for (const observer of observers) observer.turn?.(...given)
    },
    end(...given) {
      for (const observer of observers) observer.end?.(...given)
    },
    refused(...given) {
      for (const observer of observers) observer.refused?.(...given)
    },
  }
}
