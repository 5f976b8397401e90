import { Hono } from 'hono'
import { configOf } from '../config.ts'
import type { EdgeEnv } from '../http/context.ts'
import { findOwnJob } from '../requests/own-job.ts'
import { exportPublicKeys } from '../results/receipts.ts'

/** The receipts of a job's images, for its owner. Empty until the job has succeeded. */
export const receipts = new Hono<EdgeEnv>().get('/:id/receipts', async (c) => {
  const { state, images } = await findOwnJob(c, 'read')
  const signed = state === 'succeeded' ? images.toSorted((a, b) => a.image - b.image) : []
  const data = signed.map(({ image, sha256, receipt }) => ({ image, sha256, receipt: receipt ?? null }))
  return c.json({ object: 'list', data })
})

/** The public keys for verifying receipts, as a JWK Set (RFC 7517). Retired keys remain listed. */
export const receiptKeys = new Hono<EdgeEnv>().get('/jwks.json', (c) =>
  c.body(JSON.stringify(exportPublicKeys(configOf(c.env).receiptKeys)), 200, {
    'content-type': 'application/jwk-set+json',
    'cache-control': 'public, max-age=300',
    'access-control-allow-origin': '*',
  }),
)
