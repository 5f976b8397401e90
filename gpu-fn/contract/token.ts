import * as z from 'zod'
import { jobId } from './names.ts'

/** Claims of the edge's EdDSA token on `PUT /jobs/{id}` and `DELETE /jobs/{id}`; `exp` is at most five minutes ahead. A token serves one request. */
export const GPU_TOKEN = {
  issuer: 'octet-edge',
  audience: 'octet-gpu',
  algorithm: 'EdDSA',
  /** Header of the token if the host of the GPU function reserves `authorization`. */
  header: 'octet-authorization',
  maxAgeSeconds: 300,
} as const
export const gpuTokenClaims = z.object({
  /** job id */ sub: jobId,
  /** `${job}.${attempt}.${uuid}`: the random UUID makes every token unique. */
  jti: z.string().regex(/^[A-Za-z0-9_-]{1,64}\.[1-9]\d{0,8}\.[0-9a-f-]{36}$/),
  /** SHA-256 of the request body, base64url */
  body: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
})

/** The `jti` of a new token. */
export const createGpuTokenId = (job: string, attempt: number): string => `${job}.${attempt}.${crypto.randomUUID()}`
