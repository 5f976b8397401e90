// Authentication: the edge signs each request with a short-lived token bound to its job, attempt and body.
import { createHash, type KeyObject } from 'node:crypto'
import { errors, type JWTPayload, jwtVerify } from 'jose'
import { GPU_TOKEN, gpuTokenClaims } from '../../contract.ts'
import { createExpiringMap } from './expiring-map.ts'
import { Refusal } from './refusal.ts'

const CLOCK_TOLERANCE_SECONDS = 10
/** Retention of used tokens: all tokens have expired by then. */
const REMEMBER_SECONDS = GPU_TOKEN.maxAgeSeconds + 2 * CLOCK_TOLERANCE_SECONDS
/** About ten megabytes. Above this the oldest entries are evicted. */
const REMEMBERED_TOKENS = 65_536

export type Claims = {
  job: string
  attempt: number
  /** SHA-256 of the body, base64url. */
  body: string
  /** Unique per token. */
  id: string
}

/** Verifies the bearer token's signature under one of the edge's keys, its issuer, audience and lifetime. Throws a Refusal with status 401. */
export async function verifyToken(keys: readonly KeyObject[], authorization: string | undefined): Promise<Claims> {
  const token = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
  if (token === undefined) throw new Refusal('token_missing', 'send the token as `Authorization: Bearer …`')
  const claims = readClaims(await verifySignature(keys, token))
  if (!claims) throw new Refusal('token_invalid', 'the token lacks one of sub, jti (`<job>.<attempt>.<uuid>`) and body')
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
    throw new Refusal('token_invalid', 'the token was not signed by the edge for this service', { cause })
  }
}

function readClaims(payload: JWTPayload): Claims | undefined {
  const secondsLeft = (payload.exp ?? Number.POSITIVE_INFINITY) - Date.now() / 1000
  if (secondsLeft > GPU_TOKEN.maxAgeSeconds + CLOCK_TOLERANCE_SECONDS)
    throw new Refusal('token_invalid', `a token's lifetime must not exceed ${GPU_TOKEN.maxAgeSeconds} seconds`)
  const claims = gpuTokenClaims.safeParse(payload)
  if (!claims.success) return undefined
  const { sub: job, jti: id, body } = claims.data
  const [ofJob, attempt] = id.split('.')
  return ofJob === job ? { job, attempt: Number(attempt), body, id } : undefined
}

/** Checks that the token was signed for this job, before the body is read. Throws a Refusal with status 403. */
export function checkJob(claims: Claims, job: string): void {
  if (claims.job !== job) throw new Refusal('token_mismatch', 'the token is for another job')
}

/** Checks that the token was signed for these bytes. Throws a Refusal with status 403. */
export function checkBody(claims: Claims, body: Uint8Array): void {
  if (claims.body !== createHash('sha256').update(body).digest('base64url'))
    throw new Refusal('token_mismatch', 'the token is for another body')
}

/**
 * Returns a function that accepts each token once per process during its lifetime and throws a Refusal with status 401 on reuse. The
 * edge signs every request separately, so a reused token was copied.
 */
export function createTokenUse(): (claims: Claims) => void {
  const used = createExpiringMap<true>({ seconds: REMEMBER_SECONDS, max: REMEMBERED_TOKENS })
  return ({ id }) => {
    if (used.get(id))
      throw new Refusal('token_replayed', 'the token has already been used; sign a new one for each request')
    used.set(id, true)
  }
}
