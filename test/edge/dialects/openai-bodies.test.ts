// Request bodies as real applications send them, to the worker as shipped: each reply must be one that its application can read.
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type GeneratedJob, newCaller, ORIGIN, problemOf } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { fetchShipped } from '../support/shipped.ts'

beforeEach(() => void fakeGpu(works))
afterEach(() => vi.restoreAllMocks())

type Usage = { input_tokens: number; total_tokens: number; input_tokens_details: { text_tokens: number } }
type Reply = GeneratedJob & { usage?: Usage }
type Body = Record<string, unknown>
/** Throws if the application cannot read the reply. */
type ReplyReader = (reply: Reply) => Promise<void> | void

const isBase64 = (text: unknown) => expect(Uint8Array.fromBase64(text as string).length).toBeGreaterThan(0)
const readsBase64: ReplyReader = ({ data }) => data.forEach(({ b64_json }) => void isBase64(b64_json))
/** The file of the link, without a key. */
const readsUrl: ReplyReader = async ({ data }) => {
  for (const { url } of data) {
    expect(url).toMatch(new RegExp(`^${ORIGIN}/`))
    expect((await fetchShipped(url!)).status).toBe(200)
  }
}
/** LibreChat's DALL·E tool takes the file's extension from the path. */
const readsExtension: ReplyReader = async (reply) => {
  await readsUrl(reply)
  for (const { url } of reply.data) expect(new URL(url!).pathname).toMatch(/\.(png|jpg|webp)$/)
}
const readsEither: ReplyReader = (reply) =>
  reply.data[0]!.b64_json === undefined ? readsUrl(reply) : readsBase64(reply)
const readsUsage: ReplyReader = ({ data, usage }) => {
  isBase64(data[0]!.b64_json)
  expect(usage!.input_tokens_details.text_tokens).toBeGreaterThan(0)
  expect(usage!.total_tokens).toBeGreaterThan(usage!.input_tokens)
}

const prompt = 'a red heart on a blue sky'

/** From facts about the sources of the applications. */
const BODIES: [application: string, body: Body, read: ReplyReader][] = [
  [
    'Open WebUI with its defaults',
    { model: 'dall-e-2', prompt, n: 1, size: '512x512', response_format: 'b64_json' },
    readsBase64,
  ],
  ['Open WebUI with gpt-image-1', { model: 'gpt-image-1', prompt, n: 1, size: '1024x1024' }, readsBase64],
  [
    'Open WebUI with its administrator’s fields',
    { model: 'nano', prompt, n: 1, size: '1024x1024', response_format: 'b64_json', steps: 20, cfg_scale: 4.5 },
    readsBase64,
  ],
  [
    'LibreChat’s image tools',
    {
      ...{ model: 'gpt-image-1', prompt, n: 1, size: 'auto', quality: 'auto', background: 'auto' },
      ...{ output_format: 'png', output_compression: 100, user: 'user-1' },
    },
    readsBase64,
  ],
  [
    'LibreChat’s DALL·E',
    { model: 'dall-e-3', prompt, n: 1, size: '1024x1024', quality: 'standard', style: 'vivid' },
    readsExtension,
  ],
  [
    'LobeHub with every parameter of its panel',
    { model: 'nano', prompt, n: 1, cfg: 4.5, aspectRatio: '16:9', steps: 12, seed: 7, imageUrls: [], imageUrl: null },
    readsEither,
  ],
  ['LobeHub with width and height', { model: 'nano', prompt, width: 1024, height: 1024, seed: null }, readsEither],
  ['LobeHub with gpt-image-1', { model: 'gpt-image-1', prompt, n: 1, size: '1536x1024', quality: 'high' }, readsBase64],
  [
    'n8n with gpt-image-1-mini',
    { model: 'gpt-image-1-mini', prompt, n: 1, size: '1024x1024', quality: 'medium' },
    readsBase64,
  ],
  [
    'n8n with DALL·E 3 in HD',
    { model: 'dall-e-3', prompt, quality: 'hd', size: '1792x1024', style: 'natural', response_format: 'b64_json' },
    readsBase64,
  ],
  [
    'Dify with gpt-image-1',
    { model: 'gpt-image-1', prompt, n: 1, size: '1024x1024', quality: 'low', background: 'opaque', moderation: 'auto' },
    readsUsage,
  ],
  [
    'Dify with DALL·E 3',
    {
      model: 'dall-e-3',
      prompt,
      n: 1,
      size: '1024x1792',
      quality: 'standard',
      style: 'vivid',
      response_format: 'b64_json',
    },
    readsBase64,
  ],
  [
    'SillyTavern with DALL·E 3',
    {
      ...{ prompt, model: 'dall-e-3', size: '1792x1024', n: 1, quality: 'standard', style: 'vivid' },
      response_format: 'b64_json',
    },
    readsBase64,
  ],
  [
    'SillyTavern with another model',
    { prompt, model: 'nano', size: '1024x1024', n: 1, response_format: 'b64_json' },
    readsBase64,
  ],
  [
    'Home Assistant’s OpenAI conversation',
    { model: 'dall-e-3', prompt, size: '1024x1024', quality: 'standard', style: 'vivid', response_format: 'url', n: 1 },
    readsUrl,
  ],
  [
    'Home Assistant’s AI task',
    { model: 'gpt-image-1', prompt, n: 1, size: '1536x1024', quality: 'medium', moderation: 'low', stream: false },
    readsBase64,
  ],
  ['AnythingLLM', { model: 'nano', prompt, n: 1, size: '1024x1024' }, readsEither],
  [
    'a client of LocalAI',
    {
      model: 'nano',
      prompt,
      size: '256x256',
      step: 15,
      mode: 1,
      n: 1,
      cfg_scale: 5,
      seed: -1,
      response_format: 'b64_json',
    },
    readsBase64,
  ],
  [
    'Genkit’s OpenAI plugin',
    { model: 'gpt-image-1', prompt, n: 1, size: '1024x1536', moderation: 'auto', output_compression: 100, user: 'u' },
    readsBase64,
  ],
  [
    'Hugging Face’s providers',
    {
      prompt,
      model: 'nano',
      num_inference_steps: 20,
      guidance_scale: 4,
      width: 1024,
      height: 768,
      response_format: 'base64',
    },
    readsBase64,
  ],
  [
    'LangChain.js’s DALL·E wrapper',
    { prompt, model: 'dall-e-3', n: 1, size: '1024x1024', style: 'vivid', quality: 'standard', response_format: 'url' },
    readsUrl,
  ],
  ['Cherry Studio', { model: 'nano', prompt, n: 1, size: '1024x1024', response_format: 'b64_json' }, readsBase64],
  ['the AI SDK’s openai-compatible provider', { model: 'nano', prompt, n: 1, size: '1024x1024' }, readsBase64],
]

/** Similar bodies. */
const SIMILAR: typeof BODIES = [
  ['the Python LangChain wrapper', { model: 'dall-e-2', prompt, n: 1, size: '1024x1024' }, readsUrl],
  ['litellm for a foreign name', { model: 'nano', prompt, n: 2, size: '1024x1024', user: 'a' }, readsUrl],
  ['chatgpt-image-latest', { model: 'chatgpt-image-latest', prompt, quality: 'max', size: '2048x2048' }, readsBase64],
  ['gpt-image-2 in portrait', { model: 'gpt-image-2', prompt, size: '1008x1792', quality: 'xhigh' }, readsBase64],
  ['ten images', { model: 'dall-e-2', prompt, n: 10, size: '256x256', response_format: 'url' }, readsUrl],
  [
    'a prompt of 32,000 characters',
    { model: 'gpt-image-1', prompt: 'heart '.repeat(5_333).slice(0, 32_000) },
    readsBase64,
  ],
  [
    'WebP with compression',
    { model: 'gpt-image-1.5', prompt, output_format: 'webp', output_compression: 60 },
    readsBase64,
  ],
  [
    'fields of an image router',
    { model: 'nano', prompt, num_images: 2, aspect_ratio: '3:2', guidance: 3 },
    readsEither,
  ],
  ['empty texts', { model: '', prompt, size: '', negative_prompt: '', style: '', user: '' }, readsEither],
  ['only a prompt', { prompt }, readsBase64],
  ['a size that is no multiple of 16', { prompt, size: '1000x700' }, readsEither],
  [
    'a safety identifier and input fidelity',
    { prompt, model: 'gpt-image-1', safety_identifier: 'x', input_fidelity: 'low' },
    readsBase64,
  ],
  ['an extreme shape', { prompt, size: '3000x100' }, readsEither],
]

const DAY_MICRODOLLARS = 10_000_000

describe('a reply is readable by', () => {
  test.for([...BODIES, ...SIMILAR])('%s', async ([, body, read]) => {
    const { headers } = await newCaller()
    const response = await fetchShipped('/v1/images/generations', {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    if (response.status !== 200) expect((await problemOf(response)).detail).toBe('')
    const reply = (await response.json()) as Reply
    expect(reply.octet.price_microdollars).toBeLessThan(DAY_MICRODOLLARS)
    await read(reply)
  })
})
