// The one `queue` handler: which consumer a queue has.
import type { Env } from './env.ts'
import { consumeUsage } from './usage-export.ts'
import { deliverWebhooks, logDeadWebhooks } from './webhook-queue.ts'

type Consumer = (batch: MessageBatch<never>, env: Env) => Promise<void>

/** By the queue's name in wrangler.toml. */
const CONSUMERS: Record<string, Consumer> = {
  'octet-usage': consumeUsage,
  'octet-webhooks': deliverWebhooks,
  'octet-webhooks-dead': logDeadWebhooks,
}

/** Hands a batch to its queue's consumer. Throws for a queue without one, so that the messages come again. */
export async function queue(batch: MessageBatch, env: Env): Promise<void> {
  const consume = CONSUMERS[batch.queue]
  if (!consume) throw new Error(`the queue ${batch.queue} has no consumer`)
  await consume(batch as MessageBatch<never>, env)
}
