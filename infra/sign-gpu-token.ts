// The edge's token for a request to the GPU function, for an operator who asks it directly.
import { createHash } from 'node:crypto'
import { importJWK, SignJWT } from 'jose'
import { GPU_TOKEN } from '../gpu-fn/contract.ts'

/** Signs for one job, attempt and body with the edge's private JWK; contract.ts GPU_TOKEN. */
export async function signGpuToken(jwk: string, job: string, attempt: number, body: string): Promise<string> {
  return new SignJWT({ body: createHash('sha256').update(body).digest('base64url') })
    .setProtectedHeader({ alg: GPU_TOKEN.algorithm })
    .setIssuer(GPU_TOKEN.issuer)
    .setAudience(GPU_TOKEN.audience)
    .setSubject(job)
    .setJti(`${job}.${attempt}`)
    .setIssuedAt()
    .setExpirationTime(`${GPU_TOKEN.maxAgeSeconds}s`)
    .sign(await importJWK(JSON.parse(jwk), GPU_TOKEN.algorithm))
}
