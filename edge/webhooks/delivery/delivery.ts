// Events and their deliveries.

import type { EventType } from '../endpoints/event-types.ts'

/** `exhausted`: every attempt failed. `refused`: a 410 response or a blocked URL. `dropped`: the endpoint was disabled or deleted. */
export const DELIVERY_STATES = ['pending', 'delivered', 'exhausted', 'refused', 'dropped'] as const
export type DeliveryState = (typeof DELIVERY_STATES)[number]

/** `body` is JSON. `origin` is the origin of its links. */
export type WebhookEvent = { id: string; type: EventType; body: string; origin: string }
export type Delivery = {
  event: string
  endpoint: string
  /** The webhook URL given in a request, or null for the endpoint's own URL. */
  url: string | null
  state: DeliveryState
  /** Number of failed attempts since `started`. */
  failures: number
  due: number
  /** The number of the latest attempt. Only that attempt may record a failure, and no other attempt starts before `leased_until`. */
  lease: number
  leased_until: number
  /** The receiver, whose circuit breaker applies; see receivers.ts. */
  receiver: string
  /** The time of creation or of the last replay. */
  started: number
}
export type Attempt = { at: number; status: number | null; error: string | null; milliseconds: number }
export type DeliveryView = Pick<Delivery, 'event' | 'url' | 'state' | 'due'> & {
  type: EventType
  created: number
  attempts: Attempt[]
}
/** The target of a delivery: an endpoint at its own URL, or at the URL given in a request (`named`). */
export type Target = { endpoint: string; url: string; named: boolean }
