// Bodies with input images are large. Their other content is as limited as that of bodies without images.
import { test } from 'vitest'
import { LIMITS } from '#contract'
import { fetchWorker, newCaller, problemOf, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'

const prompt = 'a cat'

async function postText(path: string, body: string, type = 'application/json'): Promise<Response> {
  const { headers } = await newCaller()
  return fetchWorker(path, { method: 'POST', headers: { ...headers, 'content-type': type }, body })
}

test.for([
  ['lists', '[]'],
  ['numbers', '0'],
  ['objects', '{}'],
])('a body with an image and a million %s is too large', async ([, value], { expect }) => {
  const values = Array(1_000_000).fill(value).join(',')
  const response = await postText('/v1/jobs', `{"prompt":"a cat","image":"eA==","loras":[${values}]}`)
  expect([response.status, (await problemOf(response)).error.code]).toEqual([413, 'body_too_large'])
})

test('a field of a form with a million numbers is too large', async ({ expect }) => {
  const fields = { prompt, image: 'eA==', loras: `[${Array(1_000_000).fill('0').join(',')}]` }
  const parts = Object.entries(fields).map(
    ([name, value]) => `--b\r\ncontent-disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`,
  )
  const response = await postText('/v1/jobs', `${parts.join('')}--b--\r\n`, 'multipart/form-data; boundary=b')
  expect([response.status, (await problemOf(response)).error.code]).toEqual([413, 'body_too_large'])
})

test('an image of the largest size has no effect on this limit', async ({ expect }) => {
  const image = 'eA'.repeat(5_000_000)
  const response = await send('POST', '/v1/jobs', await newCaller(), { prompt, image, strength: 0.5 })
  expect([response.status, (await problemOf(response)).error.code]).toEqual([400, 'invalid_request'])
})

test('a form with 80,000 lists is refused', async ({ expect }) => {
  const createPart = (k: number) => `--b\r\ncontent-disposition: form-data; name="${k}[]"\r\n\r\nx\r\n`
  const form = `${Array.from({ length: 80_000 }, (_, k) => createPart(k)).join('')}--b--\r\n`
  expect(form.length).toBeGreaterThan(LIMITS.requestBytes)
  const response = await postText('/v1/images/edits', form, 'multipart/form-data; boundary=b')
  expect(response.status).toBe(413)
})

test.for([
  ['a data: URL of ten million semicolons', `"data:${';'.repeat(10_000_000)}"`],
  ['a list 100,000 deep', `${'['.repeat(100_000)}"eA=="${']'.repeat(100_000)}`],
])('%s is not an image', async ([, image], { expect }) => {
  for (const path of ['/v1/jobs', '/v1/images/edits', '/fal/run/octet/tiny']) {
    const response = await postText(path, `{"prompt":"a cat","image":${image}}`)
    expect([400, 422], path).toContain(response.status)
  }
})

test('many scripts of a request cause a limited number of warnings', async ({ expect }) => {
  fakeGpu(works)
  const scripts = Object.fromEntries(Array.from({ length: 15_000 }, (_, k) => [`script ${k}`, {}]))
  const response = await send('POST', '/sdapi/v1/txt2img', await newCaller(), { prompt, alwayson_scripts: scripts })
  expect(response.status).toBe(200)
  const { info } = (await response.json()) as { info: string }
  const { warnings } = JSON.parse(info).extra_generation_params as { warnings: string[] }
  expect(warnings.length).toBeLessThanOrEqual(20)
  expect(warnings[0]).toMatch(/^alwayson_scripts\.script 0 /)
})
