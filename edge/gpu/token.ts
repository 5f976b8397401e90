// Authenticates requests to the GPU function, from the edge and from operators.
import { base64url, importJWK, SignJWT } from 'jose'
import { createGpuTokenId, GPU_TOKEN } from '#contract'

/** Signs a single-use token for one request of an attempt, bound to the hash of the body; contract.ts GPU_TOKEN. */
export async function signGpuToken(jwk: string, job: string, attempt: number, body: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(body))
  return new SignJWT({ body: base64url.encode(new Uint8Array(hash)) })
    .setProtectedHeader({ alg: GPU_TOKEN.algorithm })
    .setIssuer(GPU_TOKEN.issuer)
    .setAudience(GPU_TOKEN.audience)
    .setSubject(job)
    .setJti(createGpuTokenId(job, attempt))
    .setIssuedAt()
    .setExpirationTime(`${GPU_TOKEN.maxAgeSeconds}s`)
    .sign(await importJWK(JSON.parse(jwk), GPU_TOKEN.algorithm))
}
