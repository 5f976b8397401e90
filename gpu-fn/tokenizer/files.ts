// The tokenizer that the files of an SD3.5 repository define: `tokenizer.json`, or CLIP's `vocab.json` and `merges.txt`, or T5's
// `spiece.model`.
import path from 'node:path'
import * as z from 'zod'
import { convertSentencePiece } from './sentencepiece.ts'
import {
  readMerges,
  readText,
  selectSources,
  TOKENIZER_LIMITS,
  TokenizerError,
  type TokenizerFileName,
  type TokenizerSources,
} from './sources.ts'

const id = z
  .int()
  .min(0)
  .max(TOKENIZER_LIMITS.tokens - 1)

const addedToken = z.object({
  content: z.string(),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  single_word: z.boolean().default(false),
  normalized: z.boolean().default(true),
  special: z.boolean().default(false),
})
const tokenName = z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)])
const specialTokens = z.object({
  bos_token: tokenName.nullish(),
  eos_token: tokenName.nullish(),
  pad_token: tokenName.nullish(),
  unk_token: tokenName.nullish(),
})
const tokenizerConfig = specialTokens.extend({
  extra_ids: z.int().min(0).max(1000).optional(),
  added_tokens_decoder: z.record(z.string().regex(/^\d{1,6}$/), addedToken).default({}),
})
const component = z.looseObject({ type: z.string() })
const tokenizerJson = z.object({
  added_tokens: z.array(addedToken.extend({ id })),
  normalizer: component.nullish().default(null),
  pre_tokenizer: component.nullish().default(null),
  post_processor: component.nullish().default(null),
  decoder: component.nullish().default(null),
  model: z.looseObject({
    vocab: z.union([z.record(z.string(), id), z.array(z.tuple([z.string(), z.number()])).max(TOKENIZER_LIMITS.tokens)]),
  }),
})
export type TokenizerJson = z.infer<typeof tokenizerJson>

export type TokenizerFiles = { definition: TokenizerJson; padToken: string; config: z.infer<typeof tokenizerConfig> }

const START = '<|startoftext|>'
const END = '<|endoftext|>'
/** Words, single digits, runs of anything else: OpenAI's `simple_tokenizer.py`, as in transformers' `CLIPTokenizer`. */
export const CLIP_WORDS =
  "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"

/** Parses the files of `directory`, which is named in errors. Throws `TokenizerError`. */
export function parseTokenizerFiles(directory: string, all: TokenizerSources): TokenizerFiles {
  const sources = selectSources(all)
  const map = parseJson(directory, sources, 'special_tokens_map.json', specialTokens)
  const config = parseJson(directory, sources, 'tokenizer_config.json', tokenizerConfig)
  const written = parseJson(directory, sources, 'tokenizer.json', tokenizerJson)
  const specials = { ...map, ...config }
  const model = sources.get('spiece.model')
  const converted = model && convertSentencePiece(path.join(directory, 'spiece.model'), model, config?.extra_ids)
  const definition =
    written ?? (converted ? tokenizerJson.parse(converted) : clipDefinition(directory, sources, specials))
  const padToken = specials.pad_token ?? (converted && '<pad>')
  if (padToken === undefined) {
    throw new TokenizerError(
      `${directory}: neither tokenizer_config.json nor special_tokens_map.json names a pad_token`,
    )
  }
  const added = Object.entries(config?.added_tokens_decoder ?? {}).map(([id, token]) => ({ ...token, id: Number(id) }))
  const known = new Set(added.map(({ id }) => id))
  const added_tokens = [...definition.added_tokens.filter(({ id }) => !known.has(id)), ...added]
  return { definition: { ...definition, added_tokens }, padToken, config: config ?? { added_tokens_decoder: {} } }
}

function clipDefinition(
  directory: string,
  sources: TokenizerSources,
  specials: z.infer<typeof specialTokens>,
): TokenizerJson {
  const vocab = parseJson(directory, sources, 'vocab.json', z.record(z.string(), id))
  const merges = readMerges(directory, sources)
  if (!vocab || merges === undefined) {
    throw new TokenizerError(`${directory} has neither tokenizer.json nor vocab.json with merges.txt nor spiece.model`)
  }
  const [bos, eos] = [specials.bos_token ?? START, specials.eos_token ?? END]
  for (const token of [bos, eos]) {
    if (!(token in vocab)) throw new TokenizerError(`${path.join(directory, 'vocab.json')} lacks the token ${token}`)
  }
  return {
    added_tokens: [bos, eos].map((content) => ({
      ...addedToken.parse({ content, special: true }),
      id: vocab[content]!,
    })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: CLIP_WORDS }, behavior: 'Removed', invert: true },
        { type: 'ByteLevel', add_prefix_space: false },
      ],
    },
    post_processor: { type: 'RobertaProcessing', cls: [bos, vocab[bos]], sep: [eos, vocab[eos]], trim_offsets: false },
    decoder: { type: 'ByteLevel' },
    model: {
      type: 'BPE',
      vocab,
      merges,
      end_of_word_suffix: '</w>',
      unk_token: specials.unk_token ?? END,
    },
  }
}

function parseJson<T>(
  directory: string,
  sources: TokenizerSources,
  name: TokenizerFileName,
  schema: z.ZodType<T>,
): T | undefined {
  const text = readText(directory, sources, name, ',', TOKENIZER_LIMITS.values)
  if (text === undefined) return undefined
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    const reason = cause instanceof z.ZodError ? describeIssue(cause.issues[0]!) : String(cause).slice(0, 200)
    throw new TokenizerError(`${path.join(directory, name)} is not a tokenizer file: ${reason}`, { cause })
  }
}

const describeIssue = ({ path: where, message }: z.core.$ZodIssue) => `${where.join('.').slice(0, 200)}: ${message}`
