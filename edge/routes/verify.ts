import { type Context, Hono } from 'hono'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { readBytes } from '../http/request-body.ts'
import { readMarks } from '../results/marks.ts'
import { openReceipt, ReceiptError } from '../results/receipt.ts'
import { exportPublicKeys } from '../results/receipts.ts'

/** The period of VISITOR_LIMIT in wrangler.toml. */
const VISITOR_SECONDS = '60'
/** IPTC's terms for media that a model generated, wholly or in part. */
const GENERATED = ['trainedAlgorithmicMedia', 'compositeWithTrainedAlgorithmicMedia', 'compositeSynthetic']

async function assertRate(c: Context<EdgeEnv>): Promise<void> {
  const { success } = await c.env.VISITOR_LIMIT.limit({ key: `verify ${c.req.header('cf-connecting-ip') ?? ''}` })
  if (success) return
  const message = `Too many files were sent from this address; try again in ${VISITOR_SECONDS} s.`
  throw new ApiError('rate_limited', message, { headers: { 'retry-after': VISITOR_SECONDS } })
}

/** A receipt's claims if this deployment signed it for this file, otherwise the reason. */
async function checkReceipt(c: Context<EdgeEnv>, receipt: string, sha256: string) {
  try {
    const claims = await openReceipt(receipt, exportPublicKeys(configOf(c.env).receiptKeys))
    if (claims.file.sha256 !== sha256) return { valid: false, reason: 'the receipt is that of another file' }
    const { job, image, issued, parameters } = claims
    return { valid: true, job, image, issued, model: parameters.model, tier: parameters.tier }
  } catch (error) {
    if (!(error instanceof ReceiptError)) throw error
    return { valid: false, reason: error.message }
  }
}

/**
 * Whether a file states that it was generated, and whether its receipt is genuine. Stores nothing. Errors: invalid_request, body_too_large,
 * rate_limited.
 */
export const verify = new Hono<EdgeEnv>().post('/', async (c) => {
  await assertRate(c)
  const file = await readBytes(c)
  const marks = readMarks(new Uint8Array(file))
  if (!marks) throw new ApiError('invalid_request', 'The body must be the bytes of a PNG, JPEG or WebP file.')
  const { content_type, digital_source_type, ai_system_used, c2pa_bytes } = marks
  const sha256 = new Uint8Array(await crypto.subtle.digest('SHA-256', file)).toHex()
  const receipt = c.req.header('octet-receipt')
  return c.json({
    object: 'verification',
    ...{ sha256, bytes: file.byteLength, content_type },
    states_generated: GENERATED.some((term) => digital_source_type?.endsWith(`/${term}`)) || null,
    iptc: digital_source_type === null && ai_system_used === null ? null : { digital_source_type, ai_system_used },
    c2pa: c2pa_bytes === 0 ? null : { bytes: c2pa_bytes },
    receipt: receipt === undefined ? null : await checkReceipt(c, receipt, sha256),
  })
})
