// GenerateWorkflow: drives a job that no caller drives. It does the waiting, which costs nothing here; the work is JobDO's.
import { WorkflowEntrypoint, type WorkflowEvent, type WorkflowStep } from 'cloudflare:workers'
import type { Env } from './env.ts'

/** `waitMs`: how long to wait before the first turn. */
export type GenerateParams = { job: string; waitMs: number }

/** A turn holds the stream of one attempt. When the job object dies under it, the next try of the step makes the next attempt. */
const TURN = { retries: { limit: 100, delay: '2 seconds', backoff: 'constant' }, timeout: '1 hour' } as const

export class GenerateWorkflow extends WorkflowEntrypoint<Env, GenerateParams> {
  override async run(
    { payload: { job, waitMs } }: Readonly<WorkflowEvent<GenerateParams>>,
    step: WorkflowStep,
  ): Promise<void> {
    if (waitMs > 0) await step.sleep('wait 0', waitMs)
    for (let turn = 1; ; turn++) {
      const nextMs = await step.do(`turn ${turn}`, TURN, () => this.env.JOB.getByName(job).turn())
      if (nextMs === null) return
      await step.sleep(`wait ${turn}`, nextMs)
    }
  }
}
