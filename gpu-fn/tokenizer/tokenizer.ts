// Prompts to token ids, equal to those of transformers' tokenizers, from the tokenizer files of a checkpoint.
import { Tokenizer } from '@huggingface/tokenizers'
import { parseTokenizerFiles, type TokenizerFiles, type TokenizerJson } from './files.ts'
import { createExactNormalizer } from './normalizer.ts'
import { assertPublishedParts } from './parts.ts'
import { type Cutter, cutIntoPieces, cutterOf, type Piece } from './pieces.ts'
import type { Segment } from './prompt-weights.ts'
import { readTokenizerDirectory, TokenizerError, type TokenizerSources } from './sources.ts'

/** The tokenizer of one text encoder: `prefix`, the prompt, `suffix`, then `padId` up to the length of the encoder's input. */
export type PromptTokenizer = {
  tokenizer: Tokenizer
  prefix: number[]
  suffix: number[]
  padId: number
  /** Splits long prompts into pieces; null if prompts must be tokenized whole. */
  cutter: Cutter | null
  /** One more than its largest id: the rows that an embedding needs. */
  vocabulary: number
}

export type Tokens = {
  ids: BigInt64Array
  /** The start of the text that did not fit, decoded. */
  cut?: string
}

/** Maximum quoted length of truncated text; longer text ends in "…". */
const QUOTED_CHARACTERS = 300
/** Upper bound on the trailing characters of decoded text that later tokens can change: a partial UTF-8 character, or spaces before punctuation. */
const UNSETTLED_CHARACTERS = 100
/** Prompts are tokenized in pieces of about this length, so text beyond the token limit costs nothing. */
const PIECE_CHARACTERS = 1_000

/** Opens a tokenizer directory (`tokenizer`, `tokenizer_2` or `tokenizer_3`). Throws `TokenizerError`. */
export async function openTokenizer(directory: string): Promise<PromptTokenizer> {
  return parseTokenizer(directory, await readTokenizerDirectory(directory))
}

/** Opens the tokenizer of these files; `directory` is named in errors. Throws `TokenizerError`. */
export function parseTokenizer(directory: string, sources: TokenizerSources): PromptTokenizer {
  const files = parseTokenizerFiles(directory, sources)
  try {
    assertPublishedParts(directory, files.definition)
    return open(directory, files)
  } catch (cause) {
    if (cause instanceof TokenizerError) throw cause
    throw new TokenizerError(`${directory}: ${cause instanceof Error ? cause.message : cause}`, { cause })
  }
}

function open(directory: string, files: TokenizerFiles): PromptTokenizer {
  const tokenizer = build(files)
  const padId = tokenizer.token_to_id(files.padToken)
  if (padId === undefined) throw new TokenizerError(`${directory}: the pad_token ${files.padToken} has no id`)
  const body = tokenizer.encode('a', { add_special_tokens: false }).ids
  const whole = tokenizer.encode('a').ids
  const start = whole.findIndex((_, i) => body.every((id, j) => whole[i + j] === id))
  const [prefix, suffix] = [whole.slice(0, start), whole.slice(start + body.length)]
  const unusable = [...whole, padId, tokenizer.model.unk_token_id].find((id) => !Number.isSafeInteger(id))
  if (unusable !== undefined || tokenizer.model.unk_token_id === undefined)
    throw new TokenizerError(`${directory}: a special token of the tokenizer, such as the unknown token, has no id`)
  return {
    tokenizer,
    prefix,
    suffix,
    padId,
    cutter: cutterOf(files.definition),
    vocabulary: vocabularyOf(files),
  }
}

/**
 * Ids of a prompt, [1, L] with L at least `minTokens` (padded) and at most `maxTokens` (the prompt's end is cut; start and end tokens stay).
 * Lone surrogates count as U+FFFD. Text far beyond the limit is not tokenized.
 */
export function tokenize(
  from: PromptTokenizer,
  prompt: string,
  limits: { minTokens: number; maxTokens: number },
  pieceCharacters = PIECE_CHARACTERS,
): Tokens {
  const { tokenizer, prefix, suffix, cutter } = from
  const text = prompt.toWellFormed()
  const room = limits.maxTokens - prefix.length - suffix.length
  let body: number[] = []
  let cut: string | undefined
  for (const piece of cutter ? cutIntoPieces(text, cutter, pieceCharacters) : [{ text, next: '' }]) {
    body = body.concat(encodePiece(tokenizer, piece))
    if (body.length > room) cut = tokenizer.decode(body.slice(room)).trim()
    if (cut !== undefined && cut.length > QUOTED_CHARACTERS + UNSETTLED_CHARACTERS) break
  }
  const ids = pad(from, [...prefix, ...body.slice(0, room), ...suffix], limits)
  return { ids, ...(cut !== undefined && { cut: quoteStart(cut) }) }
}

/** ComfyUI moves shorter segments whole to the next part of a long prompt, which this pipeline does not have. */
const DIVISIBLE_TOKENS = 8

/** Token IDs, as returned by `tokenize`, and their weights. Each segment is tokenized separately; start, end and padding tokens have weight 1. */
export function tokenizeWeighted(
  from: PromptTokenizer,
  segments: readonly Segment[],
  limits: { minTokens: number; maxTokens: number },
): Tokens & { weights: Float32Array } {
  const { tokenizer, prefix, suffix } = from
  const room = limits.maxTokens - prefix.length - suffix.length
  const body: { id: number; weight: number }[] = []
  let cut: string | undefined
  for (const [k, { text, weight }] of segments.entries()) {
    const left = room - body.length
    const ids = encodeUpTo(from, text.toWellFormed(), Math.max(left + QUOTED_CHARACTERS, DIVISIBLE_TOKENS))
    const kept = ids.length <= left ? ids.length : ids.length < DIVISIBLE_TOKENS ? 0 : left
    for (const id of ids.slice(0, kept)) body.push({ id, weight })
    if (kept === ids.length) continue
    const rest = segments.slice(k + 1).map((each) => each.text)
    cut = quoteStart([tokenizer.decode(ids.slice(kept)).trim(), ...rest].join(''))
    break
  }
  const ids = [...prefix, ...body.map(({ id }) => id), ...suffix]
  const weights = new Float32Array(Math.max(ids.length, limits.minTokens)).fill(1)
  weights.set(
    body.map(({ weight }) => weight),
    prefix.length,
  )
  return { ids: pad(from, ids, limits), weights, ...(cut !== undefined && { cut }) }
}

/** The first tokens of a text: at least `enough`, or all of a shorter text. */
function encodeUpTo({ tokenizer, cutter }: PromptTokenizer, text: string, enough: number): number[] {
  let ids: number[] = []
  for (const piece of cutter ? cutIntoPieces(text, cutter, PIECE_CHARACTERS) : [{ text, next: '' }]) {
    ids = ids.concat(encodePiece(tokenizer, piece))
    if (ids.length >= enough) break
  }
  return ids
}

function pad({ padId }: PromptTokenizer, ids: readonly number[], { minTokens }: { minTokens: number }): BigInt64Array {
  const padding = new Array<number>(Math.max(0, minTokens - ids.length)).fill(padId)
  return BigInt64Array.from([...ids, ...padding], BigInt)
}

function encodePiece(tokenizer: Tokenizer, { text, next }: Piece): number[] {
  const encode = (given: string) => tokenizer.encode(given, { add_special_tokens: false }).ids
  return next === '' ? encode(text) : encode(text + next).slice(0, -encode(next).length)
}

const quoteStart = (text: string) => (text.length > QUOTED_CHARACTERS ? `${text.slice(0, QUOTED_CHARACTERS)}…` : text)

function vocabularyOf({ definition: { model, added_tokens } }: TokenizerFiles): number {
  const own = Array.isArray(model.vocab) ? model.vocab.length : Math.max(-1, ...Object.values(model.vocab)) + 1
  return Math.max(own, ...added_tokens.map(({ id }) => id + 1))
}

function build({ definition, config }: TokenizerFiles): Tokenizer {
  const pre_tokenizer = definition.pre_tokenizer && useUnicodeSpaces(definition.pre_tokenizer)
  const tokenizer = new Tokenizer({ ...definition, pre_tokenizer }, config)
  if (definition.normalizer) tokenizer.normalizer = createExactNormalizer(definition.normalizer)
  if (tokenizer.model.fuse_unk) fuseInLinearTime(tokenizer)
  return tokenizer
}

/** The library fuses runs of unknown characters in quadratic time, a second for ten thousand of them. */
function fuseInLinearTime({ model }: Tokenizer): void {
  const isUnknown = (token: string) => (model.tokens_to_ids.get(token) ?? model.unk_token_id) === model.unk_token_id
  model._call = (words) => {
    const fused: string[] = []
    let run: string[] = []
    for (const token of model.encode(words)) {
      if (isUnknown(token)) run.push(token)
      else {
        if (run.length > 0) fused.push(run.join(''))
        run = []
        fused.push(token)
      }
    }
    if (run.length > 0) fused.push(run.join(''))
    return fused
  }
}

type Component = NonNullable<TokenizerJson['pre_tokenizer']>

/** GPT-2's words, the default of `ByteLevel`. */
const BYTE_LEVEL_WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** The same pre-tokenizer with Unicode's white space. JavaScript's includes U+FEFF and lacks U+0085. */
function useUnicodeSpaces(config: Component): Component {
  if (Array.isArray(config.pretokenizers))
    return { ...config, pretokenizers: config.pretokenizers.map(useUnicodeSpaces) }
  if (config.type === 'WhitespaceSplit') {
    return { type: 'Split', pattern: { Regex: '\\s+' }, behavior: 'Removed', invert: false }
  }
  if (config.type !== 'ByteLevel' || config.use_regex === false || config.add_prefix_space) return config
  const words = { type: 'Split', pattern: { Regex: BYTE_LEVEL_WORDS }, behavior: 'Removed', invert: true }
  return { type: 'Sequence', pretokenizers: [words, { ...config, use_regex: false }] }
}
