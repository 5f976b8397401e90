import { env } from 'cloudflare:workers'
import type { JSONWebKeySet } from 'jose'
import { afterEach, describe, test, vi } from 'vitest'
import { configOf } from '../../../edge/config.ts'
import { computePromptDigest, openReceipt, ReceiptError } from '../../../edge/results/receipt.ts'
import { createReceipt, exportPublicKeys } from '../../../edge/results/receipts.ts'
import { type Caller, fetchWorker, generate, generatedOf, newCaller } from '../support/client.ts'
import { createConfigWith, createEnvWith } from '../support/config.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

afterEach(() => vi.restoreAllMocks())

type ListedReceipt = { image: number; sha256: string; receipt: string }

async function receiptsOf(caller: Caller, job: string): Promise<ListedReceipt[]> {
  const response = await fetchWorker(`/v1/jobs/${job}/receipts`, { headers: caller.headers })
  return ((await response.json()) as { data: ListedReceipt[] }).data
}
const fetchJwks = async () => (await (await fetchWorker('/.well-known/jwks.json')).json()) as JSONWebKeySet

async function generateImages(caller: Caller, fields: object = {}) {
  fakeGpu(works)
  return generatedOf(await generate(caller, { prompt: 'a cat', seed: 8, n: 2, ...fields }))
}

describe('GET /v1/jobs/{id}/receipts', () => {
  test('issues a receipt for each image, verifiable with the public keys, with the parameters of the image', async ({
    expect,
  }) => {
    const caller = await newCaller()
    const { data, octet } = await generateImages(caller, { negative_prompt: 'blurry', route: 'full', size: '64x128' })
    const receipts = await receiptsOf(caller, octet.job)
    expect(receipts.map(({ image, sha256 }) => [image, sha256])).toEqual(data.map(({ sha256 }, k) => [k, sha256]))

    const claims = await openReceipt(receipts[1]!.receipt, await fetchJwks())
    expect(claims).toMatchObject({
      ...{ job: octet.job, image: 1, images: 2, package: 'a'.repeat(64), device: 'fake' },
      ...{ steps_run: 28, gpu_milliseconds: 700, price_microdollars: octet.price_microdollars },
      file: { sha256: data[1]!.sha256, bytes: 5000, content_type: 'image/png' },
    })
    expect(claims.parameters).toEqual({
      ...{ route: 'full', model: 'tiny', tier: 'fp8', width: 64, height: 128, steps: 28, guidance_scale: 4.5, seed: 9 },
      ...{ output_format: 'png', output_quality: 90, text_convention: 'diffusers', sampler: 'euler' },
    })
    expect(claims.prompt_digest).toBe(await computePromptDigest(claims.salt, 'prompt', 'a cat'))
    expect(claims.negative_prompt_digest).toBe(await computePromptDigest(claims.salt, 'negative_prompt', 'blurry'))
    expect(claims.kid).toBe(configOf(env).receiptKeys[0].kid)
  })

  const SAMPLING = { sampler: 'heun', sigmas: [1, 0.5], shift: 5 }
  test('has digests of the prompts of single encoders, the sampling and a seed of 64 bits', async ({ expect }) => {
    const caller = await newCaller()
    const own = {
      prompt_2: 'a cup',
      prompt_3: 'two birds',
      max_sequence_length: 128,
      seed: '18446744073709551615',
      ...SAMPLING,
    }
    const { octet } = await generateImages(caller, own)
    const [first, second] = await receiptsOf(caller, octet.job)
    const claims = await openReceipt(first!.receipt, await fetchJwks())
    expect(claims.prompt_2_digest).toBe(await computePromptDigest(claims.salt, 'prompt_2', 'a cup'))
    expect(claims.prompt_3_digest).toBe(await computePromptDigest(claims.salt, 'prompt_3', 'two birds'))
    expect(claims.parameters).toMatchObject({ ...SAMPLING, max_sequence_length: 128, seed: '18446744073709551615' })
    expect((await openReceipt(second!.receipt, await fetchJwks())).parameters.seed).toBe(0)
  })

  test('contains no prompt, and two receipts of one prompt differ', async ({ expect }) => {
    const caller = await newCaller()
    const { octet } = await generateImages(caller, { prompt: 'a secret cat' })
    const [one, other] = await Promise.all(
      (await receiptsOf(caller, octet.job)).map(async ({ receipt }) => openReceipt(receipt, await fetchJwks())),
    )
    expect(JSON.stringify(one)).not.toContain('secret')
    expect(one!.prompt_digest).not.toBe(other!.prompt_digest)
  })

  test('is 401 without a key and 404 for another account', async ({ expect }) => {
    const { octet } = await generateImages(await newCaller())
    const path = `/v1/jobs/${octet.job}/receipts`
    expect((await fetchWorker(path)).status).toBe(401)
    expect((await fetchWorker(path, { headers: (await newCaller()).headers })).status).toBe(404)
  })
})

describe('the keys that sign receipts', () => {
  test('are public without their private part, newest first', async ({ expect }) => {
    const response = await fetchWorker('/.well-known/jwks.json')
    expect(response.headers.get('content-type')).toBe('application/jwk-set+json')
    const { keys } = (await response.json()) as JSONWebKeySet
    expect(keys.map(({ kid }) => kid)).toEqual(configOf(env).receiptKeys.map(({ kid }) => kid))
    for (const key of keys) expect(Object.keys(key).sort()).toEqual(['alg', 'crv', 'kid', 'kty', 'use', 'x'])
  })

  test('rotate: receipts of the old key stay valid while at least its public half is kept', async ({ expect }) => {
    const [fresh, old] = configOf(env).receiptKeys
    const caller = await newCaller()
    const { octet } = await generateImages(caller)
    const job = (await env.JOB.getByName(octet.job).view())!
    const before = await createReceipt(
      createEnvWith({ RECEIPT_SIGNING_KEYS: JSON.stringify([old]) }),
      job,
      job.images[0]!,
    )
    const after = await createReceipt(env, job, job.images[0]!)

    const { d: _, ...retired } = old!
    for (const rotated of [configOf(env).receiptKeys, [fresh, retired] as const]) {
      expect((await openReceipt(before, exportPublicKeys(rotated))).kid).toBe(old!.kid)
      expect((await openReceipt(after, exportPublicKeys(rotated))).kid).toBe(fresh.kid)
    }
    const dropped = exportPublicKeys([fresh])
    await expect(openReceipt(before, dropped)).rejects.toBeInstanceOf(ReceiptError)
  })

  test('are refused when they are malformed, and no receipt is written for an unfinished job', async ({ expect }) => {
    const [fresh, old] = configOf(env).receiptKeys
    const { d: _, ...mute } = fresh
    for (const bad of [[], [mute, old], [fresh, fresh], [{ ...fresh, crv: 'P-256' }], {}])
      expect(() => createConfigWith({ RECEIPT_SIGNING_KEYS: JSON.stringify(bad) }).receiptKeys).toThrow(
        'RECEIPT_SIGNING_KEYS is malformed; it must be',
      )
    const { octet } = await generateImages(await newCaller())
    const job = (await env.JOB.getByName(octet.job).view())!
    await expect(createReceipt(env, { ...job, timings: null }, job.images[0]!)).rejects.toThrow(
      /before it has finished/,
    )
  })
})
