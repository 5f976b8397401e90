import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openTokenizer, type PromptTokenizer, tokenize } from '../../gpu-fn/tokenizer.ts'
import golden from '../golden/tokenizer.json' with { type: 'json' }

const TINY = path.join(import.meta.dirname, '../../infra/tiny/tokenizers')
const ENCODERS = [
  { name: 'clip_l', directory: 'tokenizer', tokens: 77 },
  { name: 'clip_g', directory: 'tokenizer_2', tokens: 77 },
  { name: 't5', directory: 'tokenizer_3', tokens: 256 },
] as const

const numbers = (ids: BigInt64Array) => Array.from(ids, Number)

describe.each(ENCODERS)('$name', ({ name, directory, tokens }) => {
  let tokenizer: PromptTokenizer
  beforeAll(async () => {
    tokenizer = await openTokenizer(path.join(TINY, directory))
  })

  test(`gives transformers' ids for ${golden.cases.length} prompts`, () => {
    for (const { text, times, [name]: ids } of golden.cases) {
      const actual = tokenize(tokenizer, text.repeat(times), { minTokens: 0, maxTokens: tokens })
      expect(numbers(actual.ids), JSON.stringify(text)).toEqual(ids)
    }
  })

  test('pads with the pad token of its files', () => {
    const pad = golden.pads[ENCODERS.findIndex((encoder) => encoder.name === name)]
    const ids = numbers(tokenize(tokenizer, 'a cat', { minTokens: tokens, maxTokens: tokens }).ids)
    expect(ids.length).toBe(tokens)
    expect(ids.at(-1)).toBe(pad)
  })

  test('reads a lone surrogate as U+FFFD', () => {
    const limits = { minTokens: 0, maxTokens: tokens }
    const lone = tokenize(tokenizer, 'a \ud83d b \udc00', limits)
    expect(lone).toEqual(tokenize(tokenizer, 'a \ufffd b \ufffd', limits))
  })

  test('says nothing of a cut when all fits, to the last token', () => {
    const words = tokens - tokenizer.prefix.length - tokenizer.suffix.length
    const limits = { minTokens: tokens, maxTokens: tokens }
    expect(tokenize(tokenizer, 'cat '.repeat(words).trim(), limits).cut).toBeUndefined()
    expect(tokenize(tokenizer, `${'cat '.repeat(words)}dog`, limits).cut).toMatchObject({ text: 'dog' })
  })
})

test('the end of a long prompt is cut, the end token stays, and the cut is quoted', async () => {
  const tokenizer = await openTokenizer(path.join(TINY, 'tokenizer'))
  const prompt = `${'red '.repeat(80)}heart on a blue sky`
  const { ids, cut } = tokenize(tokenizer, prompt, { minTokens: 77, maxTokens: 77 })
  expect(ids.length).toBe(77)
  expect(Number(ids[76])).toBe(tokenizer.suffix[0])
  expect(cut?.text).toBe('red red red red red heart on a blue sky')
})

test('T5 pads short prompts to a minimum and lets long ones grow to a maximum', async () => {
  const tokenizer = await openTokenizer(path.join(TINY, 'tokenizer_3'))
  const limits = { minTokens: 77, maxTokens: 512 }
  expect(tokenize(tokenizer, 'a cat', limits).ids.length).toBe(77)
  expect(tokenize(tokenizer, 'cat '.repeat(300), limits).ids.length).toBe(301)
  expect(tokenize(tokenizer, 'cat '.repeat(900), limits).ids.length).toBe(512)
})

describe('directories that cannot be used', () => {
  let scratch: string
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(tmpdir(), 'octet-tokenizer-'))
  })
  afterAll(() => rm(scratch, { recursive: true }))

  const variant = async (name: string, from: string, file: string, content: string | undefined) => {
    const directory = path.join(scratch, name)
    await cp(path.join(TINY, from), directory, { recursive: true })
    if (content === undefined) await rm(path.join(directory, file))
    else await writeFile(path.join(directory, file), content)
    return directory
  }

  test.each([
    ['no merges', 'tokenizer', 'merges.txt', undefined, /neither tokenizer\.json nor vocab\.json with merges\.txt/],
    ['vocab is no JSON', 'tokenizer', 'vocab.json', '{"a": 1', /vocab\.json is not a tokenizer file/],
    ['vocab with words for ids', 'tokenizer', 'vocab.json', '{"a": "b"}', /vocab\.json is not a tokenizer file/],
    [
      'vocab without the end token',
      'tokenizer',
      'vocab.json',
      '{"<|startoftext|>": 0}',
      /lacks the token <\|endoftext\|>/,
    ],
    [
      'broken character map',
      'tokenizer_3',
      'tokenizer.json',
      brokenMap(),
      /precompiled_charsmap is empty or cut short/,
    ],
    ['unknown parts', 'tokenizer_3', 'tokenizer.json', unknownPart(), /Unknown Normalizer type: Telepathy/],
    [
      'pad token without an id',
      'tokenizer',
      'tokenizer_config.json',
      '{"pad_token": "<none>"}',
      /pad_token <none> has no id/,
    ],
  ])('%s', async (name, from, file, content, message) => {
    const directory = await variant(name, from, file, content)
    await expect(openTokenizer(directory)).rejects.toThrow(
      expect.objectContaining({ name: 'TokenizerError', message: expect.stringMatching(message) }),
    )
  })
})

function definition(normalizer: object): string {
  const vocab = [
    ['<unk>', 0],
    ['a', -1],
  ]
  return JSON.stringify({ added_tokens: [], normalizer, model: { type: 'Unigram', unk_id: 0, vocab } })
}

function brokenMap(): string {
  return definition({ type: 'Precompiled', precompiled_charsmap: '/////w==' })
}

function unknownPart(): string {
  return definition({ type: 'Telepathy' })
}
