import type { WebhookEvent } from './delivery/delivery.ts'

/** Returns a test event for an endpoint. */
export function testEvent(origin: string): WebhookEvent {
  const [type, timestamp] = ['webhook.test' as const, new Date().toISOString()]
  const body = JSON.stringify({ type, timestamp, data: { object: 'test', message: 'This endpoint works.' } })
  return { id: `evt_test_${crypto.getRandomValues(new Uint8Array(12)).toHex()}`, type, body, origin }
}
