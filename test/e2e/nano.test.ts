// Images of objects: prompts through the worker and the GPU function, evaluated by the judge.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Local, startLocal } from '../../infra/local/local.ts'
import { type Judge, openJudge } from '../../infra/quality/judge.ts'
import { type Pixels, readPixels } from '../../infra/receipts/compare-images.ts'

let local: Local
let judge: Judge
beforeAll(async () => {
  judge = await openJudge()
  local = await startLocal()
})
afterAll(async () => {
  await judge.release()
  await local.stop()
})

async function generate(request: Record<string, unknown>) {
  const headers = { authorization: `Bearer ${local.key}`, 'content-type': 'application/json' }
  const body = JSON.stringify({ response_format: 'b64_json', seed: 1, ...request })
  const reply = await fetch(`${local.url}/v1/images/generations`, { method: 'POST', headers, body })
  const { data, octet } = (await reply.json()) as {
    data: { b64_json: string }[]
    octet: { model: string; tier: string }
  }
  return { image: await readPixels(Buffer.from(data[0]!.b64_json, 'base64')), octet }
}

/** The objects that the judge detects in the worker's image, and the model of the image. */
async function see(request: Record<string, unknown>) {
  const { image, octet } = await generate(request)
  const { sprites, background } = await judge.detect(image)
  return { sprites, background, by: `${octet.model} ${octet.tier}` }
}

const createPlainPair = (name: string) => ({ top: name, bottom: name })

test.each([
  [{ prompt: 'a red heart on a blue background' }, 'nano-turbo fp8'],
  [{ prompt: 'a red heart on a blue background', route: 'full' }, 'nano fp8'],
  [{ prompt: 'a red heart on a blue background', tier: 'fp8-lite' }, 'nano-turbo fp8-lite'],
])('the image of %j by %s is one red heart on blue', async (request, by) => {
  expect(await see(request)).toEqual({ sprites: { 'red heart': 1 }, background: createPlainPair('blue'), by })
})

test('an image contains both objects of its prompt', async () => {
  const { sprites } = await see({ prompt: 'a cat and a rocket on a yellow background', route: 'full' })
  expect(sprites).toEqual({ cat: 1, rocket: 1 })
})

test('words outside the vocabulary of nano have no effect on the image', async () => {
  const prompt = 'masterpiece, ultra detailed photograph of a strawberry, bokeh, 85mm, trending'
  expect(Object.keys((await see({ prompt })).sprites)).toEqual(['strawberry'])
})

test('another seed produces a different image of the same object', async () => {
  const prompt = 'a sunflower on a white background'
  const seen = [await see({ prompt, seed: 2 }), await see({ prompt, seed: 3 })]
  expect(seen.map(({ sprites }) => sprites)).toEqual([{ sunflower: 1 }, { sunflower: 1 }])
})

/** The mean of each color channel, 0 to 255. */
const meanOf = ({ data, channels }: Pixels) =>
  Array.from({ length: channels }, (_, k) => {
    const values = data.filter((_, i) => i % channels === k)
    return values.reduce((sum, value) => sum + value, 0) / values.length
  })

test('the example adapter draws on blue paper, and at scale 0 the image is that of nano', async () => {
  const { data } = (await (
    await fetch(`${local.url}/v1/models`, { headers: { authorization: `Bearer ${local.key}` } })
  ).json()) as { data: { id: string; octet_loras: { id: string }[] }[] }
  expect(data.find(({ id }) => id === 'nano')!.octet_loras.map(({ id }) => id)).toEqual(['blueprint'])
  const request = { prompt: 'a red heart on a yellow background', route: 'full', steps: 10 }
  const [base, none, drawn] = [
    await generate(request),
    await generate({ ...request, loras: [{ id: 'blueprint', scale: 0 }] }),
    await generate({ ...request, loras: [{ id: 'blueprint' }] }),
  ]
  expect(none.image).toEqual(base.image)
  const [red, , blue] = meanOf(drawn.image)
  expect(blue! - red!).toBeGreaterThan(60)
  expect(meanOf(base.image)[2]! - meanOf(base.image)[0]!).toBeLessThan(0)
})
