import * as z from 'zod'
import { PROTOCOL_VERSION, sha256Hex, TIERS } from './names.ts'

/** Body of `GET /healthz`: 200 when `ready`, else 503. */
export const health = z.strictObject({
  status: z.enum(['loading', 'ready', 'draining', 'failed']),
  protocol: z.literal(PROTOCOL_VERSION),
  running: z.int().min(0),
  queued: z.int().min(0),
  models: z.array(z.strictObject({ model: z.string(), tier: z.enum(TIERS), package: sha256Hex })),
})
export type Health = z.infer<typeof health>

/** Body of every refusal (4xx, 5xx) of the GPU function: RFC 9457. 429 and 503 mean that the job was not accepted. */
export const refusal = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  detail: z.string(),
  code: z.string(),
})
