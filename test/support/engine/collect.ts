// The events of a job on an engine.
import type { JobRequest } from '../../../gpu-fn/contract.ts'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'
import type { PipelineEvent } from '../../../gpu-fn/pipeline/events.ts'

/** Runs a job with the package of its tier. Calls `each` after every step. */
export async function collect(
  engine: Engine,
  job: JobRequest,
  signal = new AbortController().signal,
  each?: () => void,
): Promise<PipelineEvent[]> {
  const model = engine.models.find(({ tier }) => tier === job.tier)!
  const events: PipelineEvent[] = []
  for await (const event of engine.run(model, job, signal)) {
    events.push(event)
    if (event.type === 'step') each?.()
  }
  return events
}

export const typesOf = (events: readonly PipelineEvent[]) => events.map(({ type }) => type)
