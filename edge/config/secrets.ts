// Secrets, from .dev.vars or `wrangler secret put`. Error messages never quote them.
import * as z from 'zod'
import { createTextSchema } from './values.ts'

/** Whether requests may have headers with these names and values. Checked in advance, because errors of `fetch` may quote invalid ones. */
function areHeaders(given: Record<string, string>): boolean {
  try {
    new Headers(given)
    return true
  } catch {
    return false
  }
}

/** The prefix of the placeholder secrets in .dev.vars.example. */
const EXAMPLE_SECRET = 'replace-me'

export type Pepper = { version: string; secret: string }
/** Newest first. The newest one signs; all of them verify. */
export type Peppers = readonly [Pepper, ...Pepper[]]

function parsePeppers(given: string): Peppers | null {
  const parsed = given.split(',').map((pair) => {
    const [, version, secret] = /^\s*([0-9a-z]):([^\s,]{32,})\s*$/.exec(pair) ?? []
    return version && secret && !secret.startsWith(EXAMPLE_SECRET) ? { version, secret } : null
  })
  return parsed.includes(null) ? null : (parsed as [Pepper, ...Pepper[]])
}

const pairs = 'version:secret pairs, newest first, separated by commas; a secret has at least 32 random characters'
export const peppers = z
  .object({ KEY_PEPPER: createTextSchema(pairs, parsePeppers) })
  .transform(({ KEY_PEPPER }) => KEY_PEPPER)

const signingKey = z.looseObject({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), d: z.string() })
/** The private Ed25519 JWK, as JSON text, for signing requests to the GPU function. */
export const gpuSigningKey = z
  .object({
    GPU_SIGNING_KEY: createTextSchema('a private Ed25519 JWK', (given) =>
      signingKey.safeParse(JSON.parse(given)).success ? given : null,
    ),
  })
  .transform(({ GPU_SIGNING_KEY }) => GPU_SIGNING_KEY)

export const MIN_TOKEN_CHARACTERS = 32
/** The operator's token. Null, which disables the operator routes, if it is missing, too short, or a placeholder. */
export const adminToken = z
  .object({ OCTET_ADMIN_TOKEN: z.string().optional() })
  .transform(({ OCTET_ADMIN_TOKEN: token }) => {
    const isSecret = token && token.length >= MIN_TOKEN_CHARACTERS && !token.startsWith(EXAMPLE_SECRET)
    return isSecret ? token : null
  })

const receiptKey = z.strictObject({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  kid: z.string().min(1).max(64),
  x: z.string(),
  /** The private half. Optional for retired keys. */
  d: z.string().optional(),
})
type ReceiptKey = z.infer<typeof receiptKey>
/** Newest first. The newest one signs. */
export type ReceiptKeys = readonly [ReceiptKey & { d: string }, ...ReceiptKey[]]

function parseReceiptKeys(given: string): ReceiptKeys | null {
  const keys = z.array(receiptKey).parse(JSON.parse(given))
  const [newest, ...older] = keys
  if (!newest?.d || new Set(keys.map(({ kid }) => kid)).size !== keys.length) return null
  return [{ ...newest, d: newest.d }, ...older]
}

const receiptKeysText =
  'a JSON array of Ed25519 JWKs, each with its own kid, newest first; the newest has its private part d'
export const receiptKeys = z
  .object({ RECEIPT_SIGNING_KEYS: createTextSchema(receiptKeysText, parseReceiptKeys) })
  .transform(({ RECEIPT_SIGNING_KEYS }) => RECEIPT_SIGNING_KEYS)

/** For reporting captures as meter events. Null reports nothing. */
export const stripeKey = z
  .object({ STRIPE_SECRET_KEY: z.string().optional() })
  .transform(({ STRIPE_SECRET_KEY }) => STRIPE_SECRET_KEY || null)

/** The key of the moderation service. Null sends none. */
export const moderationKey = z
  .object({ MODERATION_API_KEY: z.string().optional() })
  .transform(({ MODERATION_API_KEY }) => MODERATION_API_KEY || null)

/** The API key whose budget visitors of the playground use, through browser tokens. Null disables access without a key. */
export const playgroundKey = z
  .object({ PLAYGROUND_KEY: z.string().optional() })
  .transform(({ PLAYGROUND_KEY }) => PLAYGROUND_KEY || null)

const headers = z.record(z.string(), z.record(z.string(), z.string()).refine(areHeaders))
/** Headers that the hosts of the GPU functions require on every request, by endpoint. */
export const proxyHeaders = z
  .object({
    GPU_PROXY_HEADERS: createTextSchema(
      'JSON of the form {"default": {"modal-key": "…", "modal-secret": "…"}}',
      (given) => (given === '' ? {} : headers.parse(JSON.parse(given))),
    ).prefault(''),
  })
  .transform(({ GPU_PROXY_HEADERS }) => GPU_PROXY_HEADERS)

export const SECRETS: ReadonlySet<string> = new Set([
  ...['KEY_PEPPER', 'GPU_SIGNING_KEY', 'OCTET_ADMIN_TOKEN', 'RECEIPT_SIGNING_KEYS', 'STRIPE_SECRET_KEY'],
  ...['GPU_PROXY_HEADERS', 'MODERATION_API_KEY', 'OTEL_EXPORTER_OTLP_HEADERS', 'PLAYGROUND_KEY'],
])
