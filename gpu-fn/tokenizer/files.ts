// Tokenizer directories as in SD3.5 repositories: `tokenizer.json` if present, else CLIP's `vocab.json` and `merges.txt`.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'

/** An unusable tokenizer directory; the message names the file and the problem. */
export class TokenizerError extends Error {
  override name = 'TokenizerError' as const
}

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
const tokenizerConfig = specialTokens.extend({ added_tokens_decoder: z.record(z.string(), addedToken).default({}) })
const component = z.looseObject({ type: z.string() })
const tokenizerJson = z.object({
  added_tokens: z.array(addedToken.extend({ id: z.int() })),
  normalizer: component.nullish().default(null),
  pre_tokenizer: component.nullish().default(null),
  post_processor: component.nullish().default(null),
  decoder: component.nullish().default(null),
  model: z.looseObject({ vocab: z.union([z.record(z.string(), z.int()), z.array(z.tuple([z.string(), z.number()]))]) }),
})
export type TokenizerJson = z.infer<typeof tokenizerJson>

export type TokenizerFiles = { definition: TokenizerJson; padToken: string; config: z.infer<typeof tokenizerConfig> }

const START = '<|startoftext|>'
const END = '<|endoftext|>'
/** Words, single digits, runs of anything else: OpenAI's `simple_tokenizer.py`, as in transformers' `CLIPTokenizer`. */
export const CLIP_WORDS =
  "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"

/** Reads a tokenizer directory. Throws `TokenizerError`. */
export async function readTokenizerFiles(directory: string): Promise<TokenizerFiles> {
  const map = await readJson(directory, 'special_tokens_map.json', specialTokens)
  const config = await readJson(directory, 'tokenizer_config.json', tokenizerConfig)
  const written = await readJson(directory, 'tokenizer.json', tokenizerJson)
  const specials = { ...map, ...config }
  const definition = written ?? (await clipDefinition(directory, specials))
  const padToken = specials.pad_token ?? undefined
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

async function clipDefinition(directory: string, specials: z.infer<typeof specialTokens>): Promise<TokenizerJson> {
  const vocab = await readJson(directory, 'vocab.json', z.record(z.string(), z.int()))
  const merges = await readText(directory, 'merges.txt')
  if (!vocab || merges === undefined) {
    throw new TokenizerError(`${directory} has neither tokenizer.json nor vocab.json with merges.txt`)
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
      merges: merges.split('\n').filter((line) => line !== '' && !line.startsWith('#version')),
      end_of_word_suffix: '</w>',
      unk_token: specials.unk_token ?? END,
    },
  }
}

async function readText(directory: string, name: string): Promise<string | undefined> {
  try {
    return await readFile(path.join(directory, name), 'utf8')
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined
    throw new TokenizerError(`cannot read ${path.join(directory, name)}`, { cause })
  }
}

async function readJson<T>(directory: string, name: string, schema: z.ZodType<T>): Promise<T | undefined> {
  const text = await readText(directory, name)
  if (text === undefined) return undefined
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    const reason = cause instanceof z.ZodError ? z.prettifyError(cause) : String(cause)
    throw new TokenizerError(`${path.join(directory, name)} is not a tokenizer file: ${reason}`, { cause })
  }
}
