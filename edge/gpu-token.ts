// What the GPU function knows the edge by. An operator who asks it directly signs the same way.
import { base64url, importJWK, SignJWT } from 'jose'
import { GPU_TOKEN, gpuTokenId } from '#contract'

/** A token for one request of one attempt, bound to the body's hash; contract.ts GPU_TOKEN. Each call signs a new one: a token is accepted once. */
export async function signGpuToken(jwk: string, job: string, attempt: number, body: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(body))
  return new SignJWT({ body: base64url.encode(new Uint8Array(hash)) })
    .setProtectedHeader({ alg: GPU_TOKEN.algorithm })
    .setIssuer(GPU_TOKEN.issuer)
    .setAudience(GPU_TOKEN.audience)
    .setSubject(job)
    .setJti(gpuTokenId(job, attempt))
    .setIssuedAt()
    .setExpirationTime(`${GPU_TOKEN.maxAgeSeconds}s`)
    .sign(await importJWK(JSON.parse(jwk), GPU_TOKEN.algorithm))
}
