// A client of the GPU function as the edge is one: signs a token for each request.
import { createHash, generateKeyPairSync, type KeyObject } from 'node:crypto'
import { SignJWT } from 'jose'
import {
  createGpuTokenId,
  GPU_TOKEN,
  type JobInput,
  type JobRequest,
  PROTOCOL_VERSION,
} from '../../../gpu-fn/contract.ts'

export const edgeKeys = generateKeyPairSync('ed25519')
/** Keys that are about to be retired, which are still valid. */
export const oldEdgeKeys = generateKeyPairSync('ed25519')

export type TokenOptions = Partial<{
  key: KeyObject
  attempt: number
  issuer: string
  audience: string
  /** `jti` */
  id: string
  /** Unix seconds. */
  expires: number
}>

/** The edge's token for one job, attempt and body. */
export function signToken(job: string, body: string | Uint8Array, options: TokenOptions = {}): Promise<string> {
  const hash = createHash('sha256').update(body).digest('base64url')
  return new SignJWT({ body: hash })
    .setProtectedHeader({ alg: GPU_TOKEN.algorithm })
    .setIssuer(options.issuer ?? GPU_TOKEN.issuer)
    .setAudience(options.audience ?? GPU_TOKEN.audience)
    .setSubject(job)
    .setJti(options.id ?? createGpuTokenId(job, options.attempt ?? 1))
    .setExpirationTime(options.expires ?? Math.floor(Date.now() / 1000) + GPU_TOKEN.maxAgeSeconds)
    .sign(options.key ?? edgeKeys.privateKey)
}

export function createJobBody(overrides: Partial<JobRequest> = {}): JobRequest {
  return {
    protocol: PROTOCOL_VERSION,
    attempt: 1,
    model: 'tiny',
    tier: 'fp8',
    prompt: 'a red heart on a blue sky',
    negative_prompt: '',
    width: 64,
    height: 64,
    steps: 4,
    guidance_scale: 1,
    seed: 7,
    count: 1,
    output_format: 'png',
    output_quality: 90,
    text_convention: 'diffusers',
    ...overrides,
  }
}

/** `PUT /jobs/{job}` with a valid token for this body. */
export async function putJob(
  url: string,
  job: string,
  overrides: Partial<JobRequest> = {},
  headers: Record<string, string> = {},
): Promise<Response> {
  const body = createJobBody(overrides)
  return putRaw(url, job, JSON.stringify(body), { attempt: body.attempt }, headers)
}

/** `PUT /jobs/{job}` with any text as the body; the token covers it. */
export async function putRaw(
  url: string,
  job: string,
  body: string,
  options?: TokenOptions,
  others: Record<string, string> = {},
): Promise<Response> {
  const headers = {
    ...others,
    'content-type': 'application/json',
    authorization: `Bearer ${await signToken(job, body, options)}`,
  }
  return fetch(`${url}/jobs/${job}`, { method: 'PUT', headers, body })
}

/** Entry of `inputs` for a file. */
export const inputOf = (name: JobInput['name'], file: Uint8Array): JobInput => ({
  ...{ name, bytes: file.byteLength, sha256: createHash('sha256').update(file).digest('hex') },
})

/** Sends `PUT /jobs/{job}` with a body of the request line and the files. The token signs only the request line. */
export async function putFiles(
  url: string,
  job: string,
  request: object,
  files: Uint8Array,
  type = 'application/x-ndjson',
): Promise<Response> {
  const line = JSON.stringify(request)
  const headers = { 'content-type': type, authorization: `Bearer ${await signToken(job, line)}` }
  const body = Buffer.concat([Buffer.from(`${line}\n`), files])
  return fetch(`${url}/jobs/${job}`, { method: 'PUT', headers, body })
}

export async function deleteJob(url: string, job: string, options?: TokenOptions): Promise<Response> {
  const headers = { authorization: `Bearer ${await signToken(job, '', options)}` }
  return fetch(`${url}/jobs/${job}`, { method: 'DELETE', headers })
}

/** A refusal's status and code, as in `429 queue_full`; throws when the reply is not a problem document. */
export async function refusalOf(response: Response): Promise<string> {
  const type = response.headers.get('content-type')
  const text = await response.text()
  if (type !== 'application/problem+json') throw new Error(`${response.status} ${type}: ${text}`)
  const problem = JSON.parse(text) as { status: number; code: string }
  return problem.status === response.status ? `${problem.status} ${problem.code}` : `status differs: ${text}`
}
