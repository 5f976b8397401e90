// The `queue` handler: one queue, whose consumer is the export of usage.

import { consumeUsage } from './export.ts'
import type { UsageRecord } from './record.ts'

const USAGE_QUEUE = 'octet-usage'

/** Passes a batch to the consumer of its queue. Throws for an unknown queue, so that its messages are retained. */
export async function queue(batch: MessageBatch, env: Env): Promise<void> {
  if (batch.queue !== USAGE_QUEUE) throw new Error(`the queue ${batch.queue} has no consumer`)
  await consumeUsage(batch as MessageBatch<UsageRecord>, env)
}
