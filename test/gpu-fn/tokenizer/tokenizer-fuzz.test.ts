import { readFile } from 'node:fs/promises'
import path from 'node:path'
import protobuf from 'protobufjs'
import { expect, test } from 'vitest'
import { TokenizerError, type TokenizerFileName } from '../../../gpu-fn/tokenizer/sources.ts'
import { parseTokenizer, tokenize } from '../../../gpu-fn/tokenizer/tokenizer.ts'
import { createSeededRandom, mutateBytes, mutateJson, type Random } from '../../support/checkpoints/mutate.ts'
import { FUZZ_FILES } from '../../support/fuzz-files.ts'

const MEMORY_LIMIT = 64e6
const PROMPTS = ['a cat', 'a'.repeat(61), ' \u00a0猫\ud83d</s><|endoftext|>']

const [start, end] = ['<|startoftext|>', '<|endoftext|>']
const CLIP_CONFIG = {
  added_tokens_decoder: { 5: { content: start }, 6: { content: end, special: true } },
  pad_token: end,
}
const VOCABULARY = { '!': 0, a: 1, 'a</w>': 2, c: 3, 'ca</w>': 4, [start]: 5, [end]: 6 }
const METASPACE = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' }
const T5 = {
  added_tokens: [{ id: 0, content: '<pad>', special: true, normalized: false }],
  normalizer: { type: 'Sequence', normalizers: [{ type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' }] },
  pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }, METASPACE] },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
    special_tokens: { '</s>': { id: '</s>', ids: [1], tokens: ['</s>'] } },
  },
  decoder: METASPACE,
  model: {
    type: 'Unigram',
    unk_id: 2,
    vocab: [...['<pad>', '</s>', '<unk>'].map((token) => [token, 0]), ['▁', -1], ['a', -2]],
  },
}
const bytesOf = (value: object) => new TextEncoder().encode(JSON.stringify(value))
type Sources = Map<TokenizerFileName, Uint8Array>
const createClipSources = (): Sources =>
  new Map([
    ['tokenizer_config.json', bytesOf(CLIP_CONFIG)],
    ['vocab.json', bytesOf(VOCABULARY)],
    ['merges.txt', new TextEncoder().encode('#version: 0.2\nc a</w>\n')],
  ])
const createT5Sources = (): Sources =>
  new Map([
    ['tokenizer.json', bytesOf(T5)],
    ['special_tokens_map.json', bytesOf({ pad_token: '<pad>' })],
  ])
const model = await readFile(
  path.join(import.meta.dirname, '../../../infra/checkpoints/tiny/tokenizers/tokenizer_3/spiece.model'),
)
/** The model with its first pieces only. */
const SPIECE = (() => {
  const reader = protobuf.Reader.create(model)
  const parts: Buffer[] = []
  for (let pieces = 0; reader.pos < reader.len; ) {
    const from = reader.pos
    const tag = reader.uint32()
    reader.skipType(tag & 7)
    if (tag !== 0x0a || pieces++ < 8) parts.push(model.subarray(from, reader.pos))
  }
  return Buffer.concat(parts)
})()

type Damage = (random: Random) => Sources
const KINDS: [name: string, Damage][] = [
  ['vocab.json', (random) => createClipSources().set('vocab.json', mutateJson(random, VOCABULARY))],
  [
    'merges.txt',
    (random) => createClipSources().set('merges.txt', mutateBytes(random, createClipSources().get('merges.txt')!)),
  ],
  [
    'tokenizer_config.json',
    (random) => createClipSources().set('tokenizer_config.json', mutateJson(random, CLIP_CONFIG)),
  ],
  [
    'special_tokens_map.json',
    (random) => createT5Sources().set('special_tokens_map.json', mutateJson(random, { pad_token: '<pad>' })),
  ],
  ['tokenizer.json', (random) => createT5Sources().set('tokenizer.json', mutateJson(random, T5))],
  ['spiece.model', (random) => new Map([['spiece.model', mutateBytes(random, SPIECE)]])],
]

test.each(KINDS)(`${FUZZ_FILES} damaged %s are refused with a TokenizerError, or usable`, (_, damage) => {
  const random = createSeededRandom(12)
  let [usable, memory] = [0, 0]
  for (let i = 0; i < FUZZ_FILES; i++) {
    const sources = damage(random)
    try {
      const tokenizer = parseTokenizer('tokenizer', sources)
      for (const prompt of PROMPTS) tokenize(tokenizer, prompt, { minTokens: 77, maxTokens: 77 })
      usable++
    } catch (error) {
      if (!(error instanceof TokenizerError) || error.message.length >= 2000)
        throw new Error([...sources.values()].map((bytes) => Buffer.from(bytes).toString()).join('\n'), {
          cause: error,
        })
    }
    memory = Math.max(memory, process.memoryUsage().arrayBuffers)
  }
  expect(memory).toBeLessThan(MEMORY_LIMIT)
  expect(usable).toBeGreaterThan(FUZZ_FILES / 200)
  expect(usable).toBeLessThan(FUZZ_FILES)
})
