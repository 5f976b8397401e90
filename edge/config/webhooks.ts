// Delivery of webhooks and the allowed addresses: the variables WEBHOOK_*.
import * as z from 'zod'
import { createTextSchema } from './values.ts'

const MIN_LIFETIME_SECONDS = 4 * 24 * 3600

const createNumberSchema = (min: number) =>
  createTextSchema(`a number of at least ${min}`, (given) => {
    const value = given.trim() === '' ? Number.NaN : Number(given)
    return value >= min && value < Number.POSITIVE_INFINITY ? value : null
  })
const delays = createTextSchema('numbers of seconds from 0, separated by commas', (given) => {
  const seconds = given.split(',').map(Number)
  return seconds.every((each) => each >= 0) ? seconds : null
})

export type WebhookSettings = {
  /** The delays before attempts 2, 3, …, in seconds. */
  schedule: readonly number[]
  timeoutMs: number
  /** Open time of a circuit breaker after its first opening. */
  breakerMs: number
  replaysPerMinute: number
  /** A pending delivery is given up after this time, even if an open circuit breaker prevented its attempts. */
  lifetimeMs: number
}

export const webhooks = z
  .object({
    WEBHOOK_RETRY_SECONDS: delays.prefault('5,300,1800,7200,18000,36000,50400,72000,86400'),
    WEBHOOK_TIMEOUT_SECONDS: createNumberSchema(0.001).prefault('15'),
    WEBHOOK_BREAKER_SECONDS: createNumberSchema(0).prefault('30'),
    WEBHOOK_REPLAYS_PER_MINUTE: createNumberSchema(1).prefault('100'),
  })
  .transform((given): WebhookSettings => {
    const schedule = given.WEBHOOK_RETRY_SECONDS
    const total = schedule.reduce((sum, wait) => sum + wait, 0)
    return {
      schedule,
      timeoutMs: given.WEBHOOK_TIMEOUT_SECONDS * 1000,
      breakerMs: given.WEBHOOK_BREAKER_SECONDS * 1000,
      replaysPerMinute: given.WEBHOOK_REPLAYS_PER_MINUTE,
      lifetimeMs: Math.max(MIN_LIFETIME_SECONDS, 1.25 * total) * 1000,
    }
  })

const splitWords = (given: string) => given.split(/[\s,]+/).filter(Boolean)

/** The allowed ports of webhook URLs, the blocked hosts including their subdomains, and whether http and localhost are allowed. */
export const webhookAddresses = z
  .object({
    WEBHOOK_PORTS: z.string().prefault('443'),
    WEBHOOK_BLOCKED_HOSTS: z.string().prefault(''),
    WEBHOOK_LOCAL: z.string().optional(),
  })
  .transform((given) => ({
    ports: new Set(splitWords(given.WEBHOOK_PORTS)),
    blocked: splitWords(given.WEBHOOK_BLOCKED_HOSTS),
    local: given.WEBHOOK_LOCAL === 'true',
  }))
