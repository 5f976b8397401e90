import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { parseTokenizer, tokenize } from '../../../gpu-fn/tokenizer/tokenizer.ts'
import golden from '../../golden/sentencepiece.json' with { type: 'json' }
import prompts from '../../golden/tokenizer.json' with { type: 'json' }

const TINY = path.join(import.meta.dirname, '../../../infra/checkpoints/tiny/tokenizers/tokenizer_3')
const model = await readFile(path.join(TINY, 'spiece.model'))
const openModel = (bytes: Uint8Array) => parseTokenizer('tokenizer_3', new Map([['spiece.model', bytes]]))

test(`spiece.model alone results in transformers' ids for ${golden.ids.length} prompts`, () => {
  const tokenizer = openModel(model)
  expect([tokenizer.padId, tokenizer.vocabulary]).toEqual([golden.pad, golden.vocabulary])
  const texts = [...prompts.cases.map(({ text, times }) => text.repeat(times)), ...golden.own]
  for (const [i, text] of texts.entries()) {
    const { ids } = tokenize(tokenizer, text, { minTokens: 0, maxTokens: 256 })
    expect(Array.from(ids, Number), JSON.stringify(text)).toEqual(golden.ids[i])
  }
})

const encodePiece = (text: string) =>
  Buffer.concat([Buffer.from([0x0a, text.length + 2, 0x0a, text.length]), Buffer.from(text)])

test.each([
  ['another file', Buffer.from('version https://git-lfs.github.com/spec/v1\n'), /is not a SentencePiece model/],
  ['a truncated model', model.subarray(0, model.length - 10), /is not a SentencePiece model/],
  ['a BPE model', Buffer.concat([model, Buffer.from([0x12, 2, 0x18, 2])]), /is not a unigram model/],
  ['byte fallback', Buffer.concat([model, Buffer.from([0x12, 3, 0x98, 0x02, 1])]), /is not a unigram model/],
  [
    "another model's pieces",
    Buffer.concat([encodePiece('<unk>'), model]),
    /does not begin with the pieces <pad>, <\/s>/,
  ],
  ['an empty file', Buffer.alloc(0), /does not begin with the pieces/],
  ['a million pieces', Buffer.alloc(2_000_000, Buffer.from([0x0a, 0])), /more than 131072 pieces/],
])('refuses %s', (_, file, message) => {
  expect(() => openModel(file)).toThrow(
    expect.objectContaining({ name: 'TokenizerError', message: expect.stringMatching(message) }),
  )
})
