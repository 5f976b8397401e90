// Signs the receipts of finished images with the newest key in RECEIPT_SIGNING_KEYS. The public halves of older keys stay available.
import { base64url, CompactSign, importJWK, type JSONWebKeySet } from 'jose'
import { countRunSteps, imageOptionsOf, type JobRequest, type Route, type Timings } from '#contract'
import type { ReceiptKeys } from '../config/secrets.ts'
import { configOf } from '../config.ts'
import { computePromptDigest, RECEIPT, type ReceiptClaims } from './receipt.ts'
import type { StoredImage } from './stored-image.ts'

/** The public halves of all keys, for /.well-known/jwks.json. */
export function exportPublicKeys(all: ReceiptKeys): JSONWebKeySet {
  const keys = all.map(({ kty, crv, kid, x }) => ({ kty, crv, kid, x }))
  return { keys: keys.map((key) => ({ ...key, use: 'sig', alg: RECEIPT.algorithm })) }
}

type Facts = Omit<StoredImage, 'receipt'>
/** The fields of a finished job that its receipts contain. `price` is micro-dollars. */
type FinishedJob = {
  id: string
  request: Omit<JobRequest, 'protocol' | 'attempt'>
  decision: { route: Route }
  timings: Timings | null
  price: number
}

async function claimsOf(job: FinishedJob, facts: Facts): Promise<ReceiptClaims> {
  const { image, seed, sha256, bytes, content_type, device } = facts
  const { request, decision, timings } = job
  if (!timings) throw new Error(`job ${job.id} has no receipt before it has finished`)
  const { prompt, negative_prompt, count, model, tier, width, height, steps, guidance_scale } = request
  const { output_format, output_quality, text_convention, prompt_2, prompt_3, prompt_metadata } = request
  const salt = base64url.encode(crypto.getRandomValues(new Uint8Array(16)))
  return {
    version: RECEIPT.version,
    job: job.id,
    image,
    images: count,
    issued: Math.floor(Date.now() / 1000),
    salt,
    prompt_digest: await computePromptDigest(salt, 'prompt', prompt),
    negative_prompt_digest: await computePromptDigest(salt, 'negative_prompt', negative_prompt),
    ...(prompt_2 && { prompt_2_digest: await computePromptDigest(salt, 'prompt_2', prompt_2) }),
    ...(prompt_3 && { prompt_3_digest: await computePromptDigest(salt, 'prompt_3', prompt_3) }),
    ...(request.inputs && { inputs: request.inputs.map(({ name, sha256 }) => ({ name, sha256 })) }),
    parameters: {
      ...{ model, tier, width, height, steps, guidance_scale, seed, output_format, output_quality, text_convention },
      ...imageOptionsOf(request),
      ...(prompt_metadata === false && { prompt_metadata }),
      ...(facts.loras && { loras: facts.loras }),
      controls: facts.controls,
      route: decision.route,
    },
    package: facts.package,
    device,
    steps_run: countRunSteps(steps, request.strength),
    gpu_milliseconds: Math.round(1000 * (timings.encode + timings.denoise + timings.decode)),
    price_microdollars: job.price,
    file: { sha256, bytes, content_type },
  }
}

/** The receipt of one image of a finished job: a compact JWS over `receiptClaims`. Throws for an unfinished job. */
export async function createReceipt(env: Env, job: FinishedJob, image: Facts): Promise<string> {
  const [{ kid, ...key }] = configOf(env).receiptKeys
  return new CompactSign(new TextEncoder().encode(JSON.stringify(await claimsOf(job, image))))
    .setProtectedHeader({ alg: RECEIPT.algorithm, kid, typ: RECEIPT.type })
    .sign(await importJWK(key, RECEIPT.algorithm))
}
