// Who may send jobs: the edge signs a short-lived token for one job, one attempt and one body.
import { createHash, type KeyObject } from 'node:crypto'
import { errors, type JWTPayload, jwtVerify } from 'jose'
import { GPU_TOKEN, gpuTokenClaims } from './contract.ts'
import { Refusal } from './refusal.ts'

const CLOCK_TOLERANCE_SECONDS = 10

export type Claims = { job: string; attempt: number; body: string }

/** Verifies the bearer token's signature under one of the edge's keys, its issuer, audience and life. Throws a Refusal with status 401. */
export async function verifyToken(keys: readonly KeyObject[], authorization: string | undefined): Promise<Claims> {
  const token = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
  if (token === undefined) throw new Refusal('token_missing', 'send the token as `Authorization: Bearer …`')
  const claims = readClaims(await verifySignature(keys, token))
  if (!claims) throw new Refusal('token_invalid', 'the token lacks one of sub, jti (`<job>.<attempt>`) and body')
  return claims
}

async function verifySignature([key, ...others]: readonly KeyObject[], token: string): Promise<JWTPayload> {
  try {
    if (!key) throw new Error('the edge has no key')
    const { payload } = await jwtVerify(token, key, {
      algorithms: [GPU_TOKEN.algorithm],
      issuer: GPU_TOKEN.issuer,
      audience: GPU_TOKEN.audience,
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['exp'],
    })
    return payload
  } catch (cause) {
    if (cause instanceof errors.JWSSignatureVerificationFailed && others.length > 0)
      return verifySignature(others, token)
    if (cause instanceof errors.JWTExpired) throw new Refusal('token_expired', 'the token has expired', { cause })
    throw new Refusal('token_invalid', 'the token is not one that the edge signed for this service', { cause })
  }
}

function readClaims(payload: JWTPayload): Claims | undefined {
  const lifeLeft = (payload.exp ?? Number.POSITIVE_INFINITY) - Date.now() / 1000
  if (lifeLeft > GPU_TOKEN.maxAgeSeconds + CLOCK_TOLERANCE_SECONDS)
    throw new Refusal('token_invalid', `the token may live ${GPU_TOKEN.maxAgeSeconds} seconds at most`)
  const claims = gpuTokenClaims.safeParse(payload)
  if (!claims.success) return undefined
  const { sub: job, jti, body } = claims.data
  const attempt = /^[1-9]\d{0,8}$/.exec(jti.slice(job.length + 1))?.[0]
  return jti.startsWith(`${job}.`) && attempt !== undefined ? { job, attempt: Number(attempt), body } : undefined
}

/** Checks that the token was made for this job and these bytes. Throws a Refusal with status 403. */
export function checkScope(claims: Claims, job: string, body: Uint8Array): void {
  if (claims.job !== job) throw new Refusal('token_mismatch', 'the token is for another job')
  if (claims.body !== createHash('sha256').update(body).digest('base64url'))
    throw new Refusal('token_mismatch', 'the token is for another body')
}
