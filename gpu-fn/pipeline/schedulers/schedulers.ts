// The schedulers by name. manifest.ts lists the names, and the compiler refuses a checkpoint with any other scheduler.
import type { Manifest, SchedulerName } from '../../manifest.ts'
import { flowMatchEuler } from './flow-match-euler.ts'
import type { CreateScheduler, Scheduler } from './scheduler.ts'

const SCHEDULERS: Record<SchedulerName, CreateScheduler> = {
  FlowMatchEulerDiscreteScheduler: flowMatchEuler,
}

/** A new scheduler for one image of a package. */
export const createScheduler = (steps: number, { name, ...config }: Manifest['scheduler']): Scheduler =>
  SCHEDULERS[name](steps, config)
