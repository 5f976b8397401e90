// Verifies an image against its receipt in the page, with the code of `npm run verify`.
import './jitless.ts'
import type { JSONWebKeySet } from 'jose'
import { computePromptDigest, openReceipt, ReceiptError } from '../../results/receipt.ts'
import { call } from '../api/http.ts'
import type { Run } from '../state/history.ts'

export type Check = { name: string; passed: boolean; detail: string }
export type VerifiedReceipt = { checks: Check[]; receipt: string; bytes: ArrayBuffer }

const encodeHex = (bytes: ArrayBuffer) =>
  [...new Uint8Array(bytes)].map((each) => each.toString(16).padStart(2, '0')).join('')
const check = (name: string, passed: boolean, detail: string): Check => ({ name, passed, detail })

async function checksOf(run: Run, index: number, receipt: string, bytes: ArrayBuffer): Promise<Check[]> {
  const jwks = await call<JSONWebKeySet>('GET', '/.well-known/jwks.json')
  const claims = await openReceipt(receipt, jwks)
  const sha256 = encodeHex(await crypto.subtle.digest('SHA-256', bytes))
  const { prompt, negative_prompt = '' } = run.fields
  const isPrompt = (await computePromptDigest(claims.salt, 'prompt', prompt)) === claims.prompt_digest
  const isNegative =
    (await computePromptDigest(claims.salt, 'negative_prompt', negative_prompt)) === claims.negative_prompt_digest
  const { parameters, file } = claims
  const seed = run.images[index]!.seed
  return [
    check('Signature', true, `by the key ${claims.kid.slice(0, 12)}… of this deployment`),
    check('File', sha256 === file.sha256, `SHA-256 ${sha256.slice(0, 16)}…, ${file.bytes.toLocaleString('en')} bytes`),
    check('Prompt', isPrompt && isNegative, isPrompt && isNegative ? 'matches its digest' : 'is another one'),
    check('Seed', parameters.seed === seed, `${parameters.seed}`),
    check(
      'Model',
      parameters.model === run.decision?.model,
      `${parameters.model} in ${parameters.tier}, package ${claims.package.slice(0, 12)}…, on ${claims.device}`,
    ),
  ]
}

/** Downloads an image with its receipt and checks one against the other. Errors: Problem. */
export async function verifyImage(run: Run, index: number): Promise<VerifiedReceipt> {
  const { data } = await call<{ data: { receipt: string | null }[] }>('GET', `/v1/jobs/${run.job}/receipts`)
  const receipt = data[index]?.receipt
  const file = await fetch(run.images[index]!.url!)
  const bytes = await file.arrayBuffer()
  if (!receipt) return { checks: [check('Receipt', false, 'This image has no receipt.')], receipt: '', bytes }
  const checks = await checksOf(run, index, receipt, bytes).catch((error: unknown) => {
    if (error instanceof ReceiptError) return [check('Signature', false, error.message)]
    throw error
  })
  return { checks, receipt, bytes }
}
