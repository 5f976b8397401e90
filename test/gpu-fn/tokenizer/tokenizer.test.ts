import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { cutIntoPieces } from '../../../gpu-fn/tokenizer/pieces.ts'
import { openTokenizer, type PromptTokenizer, tokenize } from '../../../gpu-fn/tokenizer/tokenizer.ts'
import golden from '../../golden/tokenizer.json' with { type: 'json' }

const TINY = path.join(import.meta.dirname, '../../../infra/checkpoints/tiny/tokenizers')
const NANO = path.join(import.meta.dirname, '../../../gpu-fn/nano')
const ENCODERS = [
  { name: 'clip_l', directory: 'tokenizer', tokens: 77 },
  { name: 'clip_g', directory: 'tokenizer_2', tokens: 77 },
  { name: 't5', directory: 'tokenizer_3', tokens: 256 },
] as const

/** Parts of random prompts: words, combining characters, parts of graphemes, special tokens, and unknown characters. */
const FRAGMENTS = [
  ...[
    'a',
    'cat',
    "don't",
    'Ångström',
    '16:9',
    'ΟΔΥΣΣΕΎΣ',
    'мир',
    '猫',
    '日本の猫',
    '한글',
    '\u1112\u1161',
    '\u11ab',
    'e\u0301',
  ],
  ...['\u0301', '\u0338', '\u3099', 'か', '\u200d', '\ufe0f', '👩', '🇯', '\u0600', '\u0e33', 'ไทย', '\ufdfa', 'ﬁ', '①'],
  ...[
    '!',
    '.',
    ',',
    ')',
    '"',
    '▁',
    '_',
    '\u0000',
    '\u00ad',
    '\ufeff',
    '\ud83d',
    '<|endoftext|>',
    '</s>',
    '<unk>',
    '<pad>',
    '</w>',
  ],
  ...['<', 'k>', 'n', "'s", '黑猫坐在红色的屋顶上', 'red heart on a blue sky'],
]
const SEPARATORS = ['', '', ' ', ' ', ' ', '  ', ', ', '\n', '\t', '\u00a0', '\u3000', '\u0085', '\u2028']

const listNumbers = (ids: BigInt64Array) => Array.from(ids, Number)

describe.each(ENCODERS)('$name', ({ name, directory, tokens }) => {
  let tokenizer: PromptTokenizer
  beforeAll(async () => {
    tokenizer = await openTokenizer(path.join(TINY, directory))
  })

  test(`returns transformers' ids for ${golden.cases.length} prompts`, () => {
    for (const { text, times, [name]: ids } of golden.cases) {
      const actual = tokenize(tokenizer, text.repeat(times), { minTokens: 0, maxTokens: tokens })
      expect(listNumbers(actual.ids), JSON.stringify(text)).toEqual(ids)
    }
  })

  test('pads with the pad token of its files', () => {
    const pad = golden.pads[ENCODERS.findIndex((encoder) => encoder.name === name)]
    const ids = listNumbers(tokenize(tokenizer, 'a cat', { minTokens: tokens, maxTokens: tokens }).ids)
    expect(ids.length).toBe(tokens)
    expect(ids.at(-1)).toBe(pad)
  })

  test('reads a lone surrogate as U+FFFD', () => {
    const limits = { minTokens: 0, maxTokens: tokens }
    const lone = tokenize(tokenizer, 'a \ud83d b \udc00', limits)
    expect(lone).toEqual(tokenize(tokenizer, 'a \ufffd b \ufffd', limits))
  })

  test('reports no truncation if the prompt fits exactly', () => {
    const words = tokens - tokenizer.prefix.length - tokenizer.suffix.length
    const limits = { minTokens: tokens, maxTokens: tokens }
    expect(tokenize(tokenizer, 'cat '.repeat(words).trim(), limits).cut).toBeUndefined()
    expect(tokenize(tokenizer, `${'cat '.repeat(words)}dog`, limits).cut).toBe('dog')
  })
})

test('a long prompt is truncated before the end token, and the removed text is quoted', async () => {
  const tokenizer = await openTokenizer(path.join(TINY, 'tokenizer'))
  const prompt = `${'red '.repeat(80)}heart on a blue sky`
  const { ids, cut } = tokenize(tokenizer, prompt, { minTokens: 77, maxTokens: 77 })
  expect(ids.length).toBe(77)
  expect(Number(ids[76])).toBe(tokenizer.suffix[0])
  expect(cut).toBe('red red red red red heart on a blue sky')
})

test('T5 pads short prompts to a minimum length and limits long ones to a maximum', async () => {
  const tokenizer = await openTokenizer(path.join(TINY, 'tokenizer_3'))
  const limits = { minTokens: 77, maxTokens: 512 }
  expect(tokenize(tokenizer, 'a cat', limits).ids.length).toBe(77)
  expect(tokenize(tokenizer, 'cat '.repeat(300), limits).ids.length).toBe(301)
  expect(tokenize(tokenizer, 'cat '.repeat(900), limits).ids.length).toBe(512)
})

describe.each([
  ['tiny', TINY],
  ['nano', NANO],
])('a prompt tokenized in pieces, %s', (_, root) => {
  const names = ['tokenizer', 'tokenizer_2', 'tokenizer_3']
  /** Each tokenizer as used in production, and a reference that passes the whole prompt to the unmodified library. */
  let pairs: { ours: PromptTokenizer; whole: (text: string, maxTokens: number) => { ids: number[]; cut?: string } }[]
  beforeAll(async () => {
    pairs = await Promise.all(
      names.map(async (name) => {
        const directory = path.join(root, name)
        const [ours, library] = [await openTokenizer(directory), await openTokenizer(directory)]
        const tokenizeWithLibrary = (text: string, maxTokens: number) => tokenizeWhole(library, text, maxTokens)
        // Restores the prototype's `_call`, the library's own fusion of unknown characters.
        delete (library.tokenizer.model as { _call?: unknown })._call
        return { ours, whole: tokenizeWithLibrary }
      }),
    )
  })

  function compare(text: string, maxTokens: number, pieceCharacters?: number) {
    for (const { ours, whole } of pairs) {
      const { ids, cut } = tokenize(ours, text, { minTokens: 0, maxTokens }, pieceCharacters)
      expect({ ids: listNumbers(ids), cut }, JSON.stringify(text)).toEqual({
        cut: undefined,
        ...whole(text, maxTokens),
      })
    }
  }

  test('is cut between words, and inside words except by T5', () => {
    for (const { ours } of pairs) expect([...cutIntoPieces('a b c', ours.cutter!, 1)]).toHaveLength(3)
    const inWords = pairs.map(({ ours }) => [...cutIntoPieces('猫犬猫犬', ours.cutter!, 1)].length)
    expect(inWords.slice(0, 2).every((pieces) => pieces > 1)).toBe(true)
    expect(inWords[2]).toBe(1)
  })

  test('has the same tokens and cut as the whole prompt, for hostile prompts', () => {
    for (const { text, times } of golden.cases)
      for (const [maxTokens, characters] of [
        [77, undefined],
        [20, 1],
        [20, 7],
      ] as const)
        compare(text.repeat(Math.min(times, 60)), maxTokens, characters)
  })

  test('has the same tokens and cut as the whole prompt, for random prompts', () => {
    const prompts = fc
      .array(fc.tuple(fc.constantFrom(...FRAGMENTS), fc.constantFrom(...SEPARATORS)), { maxLength: 60 })
      .map((parts) => parts.flat().join(''))
    fc.assert(fc.property(prompts, fc.integer({ min: 4, max: 90 }), fc.integer({ min: 1, max: 40 }), compare), {
      numRuns: 1_500,
    })
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), fc.integer({ min: 1, max: 20 }), (text, characters) =>
        compare(text, 40, characters),
      ),
      { numRuns: 300 },
    )
  })

  test('is tokenized only up to the token limit and the end of the quoted cut', () => {
    for (const text of ['the quick brown fox, '.repeat(476), '黑猫坐在红色的屋顶上'.repeat(1_000)]) {
      for (const { ours } of pairs.slice(0, text.startsWith('the') ? 3 : 2)) {
        let read = 0
        const encode = ours.tokenizer.encode.bind(ours.tokenizer)
        const spy = vi.spyOn(ours.tokenizer, 'encode').mockImplementation((given, options) => {
          read += given.length
          return encode(given, options)
        })
        expect(tokenize(ours, text, { minTokens: 77, maxTokens: 77 }).cut).toMatch(/…$/)
        spy.mockRestore()
        expect(read).toBeLessThan(text.length / 3)
      }
    }
  })

  test('takes linear time for unknown characters', () => {
    const { tokenizer } = pairs[2]!.ours
    const { model } = tokenizer
    const measureWork = (characters: number) => {
      let lookedUp = 0
      const get = model.tokens_to_ids.get.bind(model.tokens_to_ids)
      const spy = vi.spyOn(model.tokens_to_ids, 'get').mockImplementation((key) => {
        lookedUp += key.length
        return get(key)
      })
      tokenizer.encode('\u{1f600}'.repeat(characters))
      spy.mockRestore()
      return lookedUp
    }
    expect(measureWork(8_000)).toBeLessThan(9 * measureWork(1_000))
  })
})

test('a word is not cut between letters that a merge may join', async () => {
  const scratch = await mkdtemp(path.join(tmpdir(), 'octet-tokenizer-'))
  onTestFinished(() => rm(scratch, { recursive: true }))
  await cp(path.join(TINY, 'tokenizer'), scratch, { recursive: true })
  const vocab = JSON.parse(await readFile(path.join(scratch, 'vocab.json'), 'utf8')) as Record<string, number>
  const bytesOf = (await openTokenizer(scratch)).tokenizer
  const merges: string[] = []
  // 本猫 is merged first, so the tokens of 日本 depend on the next letter.
  for (const word of ['本猫', '日本', '猫犬']) {
    const [first, ...others] = bytesOf
      .encode(word)
      .tokens.slice(1, -1)
      .map((token) => token.replace('</w>', ''))
    others.reduce((left, right) => {
      merges.push(`${left} ${right}`)
      vocab[left + right] ??= Object.keys(vocab).length
      return left + right
    }, first!)
  }
  await writeFile(path.join(scratch, 'vocab.json'), JSON.stringify(vocab))
  await writeFile(path.join(scratch, 'merges.txt'), merges.join('\n'))
  const [ours, library] = [await openTokenizer(scratch), await openTokenizer(scratch)]
  const letters = fc.array(fc.constantFrom(...'日本猫犬愛あ', ' ', 'a'), { maxLength: 40 })
  let inWords = 0
  fc.assert(
    fc.property(letters, fc.integer({ min: 1, max: 5 }), (given, characters) => {
      const text = given.join('')
      inWords += [...cutIntoPieces(text, ours.cutter!, characters)].filter(({ next }) => next !== '').length
      const { ids } = tokenize(ours, text, { minTokens: 0, maxTokens: 40 }, characters)
      expect(listNumbers(ids), text).toEqual(tokenizeWhole(library, text, 40).ids)
    }),
    { numRuns: 500 },
  )
  expect(inWords).toBeGreaterThan(100)
})

/** Tokenizes a whole prompt with the library. Returns the truncated tokens and the quoted rest, if any. */
function tokenizeWhole({ tokenizer, prefix, suffix }: PromptTokenizer, text: string, maxTokens: number) {
  const body = tokenizer.encode(text.toWellFormed(), { add_special_tokens: false }).ids
  const room = maxTokens - prefix.length - suffix.length
  const ids = [...prefix, ...body.slice(0, room), ...suffix]
  if (body.length <= room) return { ids }
  const rest = tokenizer.decode(body.slice(room)).trim()
  return { ids, cut: rest.length > 300 ? `${rest.slice(0, 300)}…` : rest }
}

describe('directories that cannot be used', () => {
  let scratch: string
  beforeAll(async () => {
    scratch = await mkdtemp(path.join(tmpdir(), 'octet-tokenizer-'))
  })
  afterAll(() => rm(scratch, { recursive: true }))

  const createVariant = async (name: string, from: string, file: string, content: string | undefined) => {
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
      createBrokenMap(),
      /precompiled_charsmap is empty or truncated/,
    ],
    [
      'unknown parts',
      'tokenizer_3',
      'tokenizer.json',
      createUnknownPart(),
      /the normalizer of tokenizer\.json has the type "Telepathy"; Sequence, NFC, .* are supported/,
    ],
    [
      'pad token without an id',
      'tokenizer',
      'tokenizer_config.json',
      '{"pad_token": "<none>"}',
      /pad_token <none> has no id/,
    ],
  ])('%s', async (name, from, file, content, message) => {
    const directory = await createVariant(name, from, file, content)
    await expect(openTokenizer(directory)).rejects.toThrow(
      expect.objectContaining({ name: 'TokenizerError', message: expect.stringMatching(message) }),
    )
  })
})

function createDefinition(normalizer: object): string {
  const vocab = [
    ['<unk>', 0],
    ['a', -1],
  ]
  return JSON.stringify({ added_tokens: [], normalizer, model: { type: 'Unigram', unk_id: 0, vocab } })
}

function createBrokenMap(): string {
  return createDefinition({ type: 'Precompiled', precompiled_charsmap: '/////w==' })
}

function createUnknownPart(): string {
  return createDefinition({ type: 'Telepathy' })
}
