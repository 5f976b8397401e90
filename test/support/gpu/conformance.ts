// The wire contract as tests, for the GPU function and every stub of it. A stub that drifts from gpu-fn/contract.ts fails here. Web
// standards only: it runs in workerd as well as in Node.
import { base64url, exportJWK, generateKeyPair, importJWK, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, test } from 'vitest'
import {
  createGpuTokenId,
  GPU_TOKEN,
  type JobEvent,
  type JobRequest,
  jobEvent,
  LIMITS,
  PROTOCOL_VERSION,
  refusal,
} from '#contract'

export type GpuTarget = {
  /** Sends a request to a path of the GPU function. */
  send: (path: string, init: RequestInit) => Promise<Response>
  /** Private JWK of a key whose tokens the target accepts. */
  signingKey: string
  /** A model that it has in the tier fp8. */
  model: string
  /** Of requests that are still running when the next one arrives. */
  long: Partial<JobRequest>
  stop: () => Promise<unknown>
}
type Put = Partial<JobRequest> & { id?: string }
type Token = Partial<{ job: string; body: string; attempt: number; key: string; expires: number; audience: string }>

const utf8 = new TextEncoder()
const sha256 = async (data: Uint8Array) => new Uint8Array(await crypto.subtle.digest('SHA-256', Uint8Array.from(data)))
const encodeHex = (data: Uint8Array) => [...data].map((byte) => byte.toString(16).padStart(2, '0')).join('')
const inFiveMinutes = () => Math.floor(Date.now() / 1000) + GPU_TOKEN.maxAgeSeconds

async function sign(key: string, { job = '', body = '', attempt = 1, ...token }: Token): Promise<string> {
  return new SignJWT({ body: base64url.encode(await sha256(utf8.encode(body))) })
    .setProtectedHeader({ alg: GPU_TOKEN.algorithm })
    .setIssuer(GPU_TOKEN.issuer)
    .setAudience(token.audience ?? GPU_TOKEN.audience)
    .setSubject(job)
    .setJti(createGpuTokenId(job, attempt))
    .setIssuedAt()
    .setExpirationTime(token.expires ?? inFiveMinutes())
    .sign(await importJWK(JSON.parse(token.key ?? key), GPU_TOKEN.algorithm))
}

/** Reads a stream of lines and counted bytes, each line by the contract's schema. */
function readMeasurement({ body }: Response) {
  const source = body!.getReader() as ReadableStreamDefaultReader<Uint8Array>
  const entries: { event: JobEvent; data: Uint8Array<ArrayBuffer> | null }[] = []
  let rest: Uint8Array<ArrayBuffer> = new Uint8Array()
  const readMore = async () => {
    const { value } = await source.read()
    if (!value) return false
    rest = Uint8Array.from([...rest, ...value])
    return true
  }
  const take = async (length: number) => {
    while (rest.length < length) if (!(await readMore())) throw new Error('the stream ends inside an image')
    const taken = rest.slice(0, length)
    rest = rest.slice(length)
    return taken
  }
  const next = async () => {
    while (!rest.includes(10)) if (!(await readMore())) return null
    const text = new TextDecoder().decode((await take(rest.indexOf(10) + 1)).slice(0, -1))
    const event = jobEvent.parse(JSON.parse(text))
    const entry = { event, data: 'bytes' in event ? await take(event.bytes) : null }
    entries.push(entry)
    return entry
  }
  return {
    /** The events up to and including the first one of a type, or all without one. */
    async until(type?: JobEvent['type']) {
      for (let entry = await next(); entry && entry.event.type !== type; ) entry = await next()
      return entries.filter(({ event }) => event.type !== 'heartbeat')
    },
  }
}

const requestOf = (model: string, fields: Partial<JobRequest>): JobRequest => ({
  ...{ protocol: PROTOCOL_VERSION, attempt: 1, model, tier: 'fp8', prompt: 'a red heart', negative_prompt: '' },
  ...{ width: 64, height: 64, steps: 3, guidance_scale: 1, seed: LIMITS.seedMax, count: 1 },
  ...{ output_format: 'png', output_quality: 90, text_convention: 'diffusers' },
  ...fields,
})

let jobs = 0

/** Requests to a target. Jobs have unique ids unless one is given. */
function clientOf({ send, signingKey, model }: GpuTarget) {
  const put = async ({ id = `conformance-${++jobs}`, ...fields }: Put, token: Token = {}, text?: string) => {
    const request = requestOf(model, fields)
    const body = text ?? JSON.stringify(request)
    const bearer = await sign(signingKey, { job: id, body, attempt: request.attempt, ...token })
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${bearer}` }
    return send(`/jobs/${id}`, { method: 'PUT', headers, body })
  }
  const cancel = async (id: string, token: Token = {}) => {
    const headers = { authorization: `Bearer ${await sign(signingKey, { job: id, ...token })}` }
    return send(`/jobs/${id}`, { method: 'DELETE', headers })
  }
  return { put, cancel, send }
}

/** Status and code of a refusal, which must be a problem document. */
async function refusalOf(response: Response): Promise<[number, string]> {
  const { status, code } = refusal.parse(await response.json())
  if (status !== response.status) throw new Error(`the body has status ${status}, the response ${response.status}`)
  return [response.status, code]
}

/** The contract's tests against `name`, which `start` starts. */
export function describeGpu(name: string, start: () => Promise<GpuTarget>): void {
  describe(`the wire contract, ${name}`, () => {
    let target: GpuTarget
    let client: ReturnType<typeof clientOf>
    beforeAll(async () => {
      target = await start()
      client = clientOf(target)
    })
    afterAll(() => target?.stop())

    test('the events of a job are accepted, started, steps, images with their bytes, and succeeded', async ({
      expect,
    }) => {
      const response = await client.put({ id: 'whole', count: 2, width: 96 })
      expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/x-ndjson'])
      const entries = await readMeasurement(response).until()
      const events = entries.map(({ event }) => event)
      const one = ['step', 'step', 'step', 'image']
      expect(events.map(({ type }) => type)).toEqual(['accepted', 'started', ...one, ...one, 'succeeded'])
      expect(events[0]).toMatchObject({ job: 'whole', attempt: 1, position: 0 })
      expect(events[1]).toMatchObject({ model: target.model, tier: 'fp8' })
      const steps = [0, 1].flatMap((image) => [1, 2, 3].map((step) => ({ type: 'step', image, step, steps: 3 })))
      expect(events.filter(({ type }) => type === 'step')).toEqual(steps)
      const images = entries.filter(({ data }) => data)
      expect(images.map(({ event }) => event)).toMatchObject([
        { image: 0, seed: LIMITS.seedMax, width: 96, height: 64, content_type: 'image/png' },
        { image: 1, seed: 0, width: 96, height: 64, content_type: 'image/png' },
      ])
      for (const { event, data } of images) expect(event).toMatchObject({ sha256: encodeHex(await sha256(data!)) })
      expect(events.at(-1)).toMatchObject({ images: 2 })
    })

    test('a repeated job is answered with the same stream, addressed to the new attempt', async ({ expect }) => {
      const first = await readMeasurement(await client.put({ id: 'again' })).until()
      const again = await readMeasurement(await client.put({ id: 'again', attempt: 2 })).until()
      expect(again[0]!.event).toMatchObject({ type: 'accepted', attempt: 2 })
      expect(again.slice(1)).toEqual(first.slice(1))
    })

    test('equal seeds result in equal images, even in different jobs', async ({ expect }) => {
      const imageOf = async (fields: Put) => (await readMeasurement(await client.put(fields)).until('image')).at(-1)!
      const [one, other] = [await imageOf({ seed: 5 }), await imageOf({ seed: 5 })]
      expect(other).toEqual(one)
      expect((await imageOf({ seed: 6 })).data).not.toEqual(one.data)
    })

    test('a running job is canceled between two steps and reports the number of completed steps', async ({
      expect,
    }) => {
      const stream = readMeasurement(await client.put({ id: 'long', ...target.long }))
      await stream.until('step')
      expect((await client.cancel('long')).status).toBe(204)
      const events = (await stream.until()).map(({ event }) => event)
      const steps = events.filter(({ type }) => type === 'step').length
      expect(events.at(-1)).toMatchObject({ type: 'canceled', steps_done: steps })
    })

    test('an unknown job cannot be canceled, and its canceled attempt does not run when it arrives', async ({
      expect,
    }) => {
      expect(await refusalOf(await client.cancel('overtaken'))).toEqual([404, 'job_not_found'])
      const events = (await readMeasurement(await client.put({ id: 'overtaken' })).until()).map(({ event }) => event)
      expect(events).toMatchObject([{ type: 'accepted' }, { type: 'canceled', steps_done: 0 }])
    })

    test('another body with the ID of an existing job is a conflict', async ({ expect }) => {
      await readMeasurement(await client.put({ id: 'mine' })).until()
      expect(await refusalOf(await client.put({ id: 'mine', seed: 8 }))).toEqual([409, 'job_conflict'])
    })

    test.for([
      ['no JSON', 'a red heart'],
      ['a field that is missing', '{"protocol":1}'],
    ])('a body with %s is refused', async ([, text], { expect }) => {
      expect(await refusalOf(await client.put({}, {}, text))).toEqual([400, 'invalid_request'])
    })

    test('a body with a field that is unknown or out of bounds is refused', async ({ expect }) => {
      for (const fields of [{ color: 'red' }, { steps: LIMITS.steps.max + 1 }, { width: 65 }])
        expect(await refusalOf(await client.put(fields))).toEqual([400, 'invalid_request'])
    })

    test.for([
      ['signed by another key', 401, 'token_invalid', async () => ({ key: await createStrangerKey() })],
      ['that has expired', 401, 'token_expired', async () => ({ expires: Math.floor(Date.now() / 1000) - 60 })],
      ['for another service', 401, 'token_invalid', async () => ({ audience: 'another' })],
      ['with an excessive lifetime', 401, 'token_invalid', async () => ({ expires: inFiveMinutes() + 600 })],
      ['of another job', 403, 'token_mismatch', async () => ({ job: 'another' })],
      ['of another body', 403, 'token_mismatch', async () => ({ body: 'another' })],
      ['of another attempt', 403, 'token_mismatch', async () => ({ attempt: 2 })],
    ] as const)('a token %s is refused', async ([, status, code, token], { expect }) => {
      expect(await refusalOf(await client.put({}, await token()))).toEqual([status, code])
    })

    test('a token is valid for one request', async ({ expect }) => {
      const [job, body] = ['once', JSON.stringify(requestOf(target.model, {}))]
      const bearer = await sign(target.signingKey, { job, body, attempt: 1 })
      const headers = { 'content-type': 'application/json', authorization: `Bearer ${bearer}` }
      const send = () => target.send(`/jobs/${job}`, { method: 'PUT', headers, body })
      expect((await readMeasurement(await send()).until()).at(-1)!.event).toMatchObject({ type: 'succeeded' })
      expect(await refusalOf(await send())).toEqual([401, 'token_replayed'])
    })

    test('a request without a token is refused', async ({ expect }) => {
      const init = { method: 'PUT', headers: { 'content-type': 'application/json' }, body: '{}' }
      expect(await refusalOf(await client.send('/jobs/anybody', init))).toEqual([401, 'token_missing'])
    })
  })
}

async function createStrangerKey(): Promise<string> {
  const { privateKey } = await generateKeyPair('EdDSA', { extractable: true })
  return JSON.stringify(await exportJWK(privateKey))
}
