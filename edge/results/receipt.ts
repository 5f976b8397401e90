// A receipt states an image's digest, parameters and price, as a compact JWS signed by the deployment. This file uses no bindings, because
// `npm run verify` checks receipts with it.
import { base64url, compactVerify, createLocalJWKSet, type JSONWebKeySet } from 'jose'
import * as z from 'zod'
import { controlChoice, INPUT_NAMES, imageOptionFields, jobRequest, loraChoice, ROUTES, sha256Hex } from '#contract'

export const RECEIPT = { version: 1, type: 'octet-receipt+jws', algorithm: 'EdDSA' } as const

const { model, tier, width, height, steps, guidance_scale, seed, output_format, output_quality, text_convention } =
  jobRequest.shape
const { prompt_metadata } = jobRequest.shape
const count = z.int().min(0)
const digest = z.string().regex(/^[A-Za-z0-9_-]{43}$/)

/**
 * The claims of a receipt. A prompt is represented by a salted digest: the owner of the prompt can verify it, two receipts of one prompt
 * differ, and precomputed tables of digests are useless. The GPU time and the price are those of the whole job of `images`.
 */
export const receiptClaims = z.strictObject({
  version: z.literal(RECEIPT.version),
  job: z.string(),
  /** The index of the image in its job, from 0. */
  image: count,
  images: count.min(1),
  /** Unix seconds. */
  issued: count,
  salt: z.string().regex(/^[A-Za-z0-9_-]{22}$/),
  prompt_digest: digest,
  negative_prompt_digest: digest,
  /** Present if the second or third encoder has its own prompt. */
  prompt_2_digest: digest.optional(),
  prompt_3_digest: digest.optional(),
  /** The digests of input files. */
  inputs: z.array(z.strictObject({ name: z.enum(INPUT_NAMES), sha256: sha256Hex })).optional(),
  parameters: z.strictObject({
    ...{ model, tier, width, height, steps, guidance_scale, seed, output_format, output_quality, text_convention },
    ...imageOptionFields,
    prompt_metadata,
    /** Adapters with the SHA-256 of their manifests. */
    loras: z.array(loraChoice.extend({ package: sha256Hex })).optional(),
    /** ControlNets, likewise. */
    controls: z.array(controlChoice.extend({ package: sha256Hex })).optional(),
    route: z.enum(ROUTES),
  }),
  /** SHA-256 of the package's manifest, which lists the digest of every file; and the device. */
  package: z.string(),
  device: z.string(),
  steps_run: count.min(1),
  gpu_milliseconds: count,
  price_microdollars: count,
  file: z.strictObject({ sha256: z.string().regex(/^[0-9a-f]{64}$/), bytes: count, content_type: z.string() }),
})
export type ReceiptClaims = z.infer<typeof receiptClaims>

/** An invalid receipt. The message is the reason. */
export class ReceiptError extends Error {
  override name = 'ReceiptError' as const
}

/** The prompts of a request. */
export const PROMPT_ROLES = ['prompt', 'negative_prompt', 'prompt_2', 'prompt_3'] as const
export type PromptRole = (typeof PROMPT_ROLES)[number]

const utf8 = new TextEncoder()

/** Digest of a prompt, base64url of SHA-256. `role` gives equal texts of different roles different digests. */
export async function computePromptDigest(salt: string, role: PromptRole, text: string): Promise<string> {
  const data = utf8.encode(JSON.stringify([salt, role, text]))
  return base64url.encode(new Uint8Array(await crypto.subtle.digest('SHA-256', data)))
}

/** Verifies a receipt's signature with public keys and returns its claims. Throws ReceiptError. */
export async function openReceipt(receipt: string, jwks: JSONWebKeySet): Promise<ReceiptClaims & { kid: string }> {
  const { payload, protectedHeader } = await compactVerify(receipt, createLocalJWKSet(jwks), {
    algorithms: [RECEIPT.algorithm],
  }).catch((cause) => {
    throw new ReceiptError(`invalid signature: ${cause instanceof Error ? cause.message : cause}`, { cause })
  })
  if (protectedHeader.typ !== RECEIPT.type)
    throw new ReceiptError(`its type is ${JSON.stringify(protectedHeader.typ)}; expected "${RECEIPT.type}"`)
  const claims = receiptClaims.safeParse(JSON.parse(new TextDecoder().decode(payload)))
  if (!claims.success) throw new ReceiptError(`its claims are invalid:\n${z.prettifyError(claims.error)}`)
  return { ...claims.data, kid: protectedHeader.kid ?? '' }
}
