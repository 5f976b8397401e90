// Splits a prompt into pieces whose concatenated tokens equal those of the whole prompt, which avoids tokenizing a long prompt to its end.
import { CLIP_WORDS, type TokenizerJson } from './files.ts'

/**
 * A piece of a prompt. If the cut is inside a word, `next` is the character after it: the piece's tokens are the tokens of `text + next`
 * without the tokens of `next`.
 */
export type Piece = { text: string; next: string }

/** Allowed cuts of a prompt. Inside a word, a cut must not separate a pair of `junctions`; null allows no cuts inside words. */
export type Cutter = { junctions: ReadonlySet<string> | null }

/**
 * Letters that remain separate graphemes next to a space or each other and that NFC never composes: Kana without combining marks, Han,
 * and Hangul syllables. Each takes three bytes in UTF-8.
 */
const WIDE = '\\u3041-\\u3096\\u30a1-\\u30fa\\u4e00-\\u9fff\\uac00-\\ud7a3'
/** The same letters, and also ASCII letters, digits and Cyrillic. */
const PLAIN = `0-9A-Za-z\\u0410-\\u044f${WIDE}`
const SPACE_BETWEEN_WORDS = new RegExp(`(?<=[${PLAIN},.;:!?)"']) (?=[${PLAIN}])`, 'y')
const INSIDE_WORD = new RegExp(`(?<=[${WIDE}])(?=[${WIDE}])`, 'y')

/** Yields pieces of at least `characters` characters, except for the last. Text without a valid cut is a single piece. */
export function* cutIntoPieces(text: string, { junctions }: Cutter, characters: number): Generator<Piece> {
  let start = 0
  for (let at = characters; at < text.length; at++) {
    if (matchesAt(SPACE_BETWEEN_WORDS, text, at)) {
      yield { text: text.slice(start, at), next: '' }
      start = at + 1
    } else if (junctions && matchesAt(INSIDE_WORD, text, at) && !junctions.has(readJunction(text, at))) {
      yield { text: text.slice(start, at), next: text[at]! }
      start = at
    } else continue
    at = start + characters - 1
  }
  yield { text: text.slice(start), next: '' }
}

function matchesAt(pattern: RegExp, text: string, at: number): boolean {
  pattern.lastIndex = at
  return pattern.test(text)
}

/** The character that byte-level BPE uses for each byte (GPT-2's `bytes_to_unicode`). */
const BYTE_CHARACTERS: readonly string[] = (() => {
  let unprintable = 256
  const isPrintable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173)
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : unprintable++))
})()

/** The last byte of the wide letter before `at` and the first byte of the one after it, as BPE characters. */
function readJunction(text: string, at: number): string {
  const lastByte = 0x80 | (text.charCodeAt(at - 1) & 0x3f)
  const firstByte = 0xe0 | (text.charCodeAt(at) >> 12)
  return BYTE_CHARACTERS[lastByte]! + BYTE_CHARACTERS[firstByte]!
}

type Component = NonNullable<TokenizerJson['pre_tokenizer']>

/**
 * The cutter for a tokenizer that encodes each word independently, as SD3.5's tokenizers provably do. Null for any other tokenizer, whose
 * prompts are tokenized whole.
 */
export function cutterOf({ added_tokens, normalizer, pre_tokenizer, model }: TokenizerJson): Cutter | null {
  const [first, ...others] = partsOf(pre_tokenizer, 'pretokenizers')
  const isLocal =
    !added_tokens.some(({ content }) => /\s/.test(content)) &&
    partsOf(normalizer, 'normalizers').every(normalizesLocally)
  if (!isLocal || !first) return null
  if (isClipSplit(first) && others.every(({ type }) => type === 'ByteLevel') && model.type === 'BPE' && !model.fuse_unk)
    return { junctions: junctionsOf(model) }
  return first.type === 'WhitespaceSplit' && marksEachWord(others, model) ? { junctions: null } : null
}

function partsOf(component: Component | null, key: string): Component[] {
  if (!component) return []
  return component.type === 'Sequence' ? (component[key] as Component[]) : [component]
}

function normalizesLocally({ type, pattern, content }: Component): boolean {
  if (type === 'Replace') return (pattern as { Regex?: string }).Regex === '\\s+' && content === ' '
  return type === 'NFC' || type === 'Lowercase' || type === 'Precompiled'
}

function isClipSplit({ type, pattern, behavior, invert }: Component): boolean {
  return (
    type === 'Split' &&
    (pattern as { Regex?: string }).Regex === CLIP_WORDS &&
    behavior === 'Removed' &&
    invert === true
  )
}

/** Whether every word of a Unigram model begins with a known token. Otherwise runs of unknown tokens would merge across words. */
function marksEachWord([metaspace, ...others]: Component[], { type, vocab }: TokenizerJson['model']): boolean {
  if (type !== 'Unigram' || metaspace?.type !== 'Metaspace' || others.length > 0) return false
  const { replacement: mark = '▁', prepend_scheme: scheme = 'always' } = metaspace
  return scheme === 'always' && Array.isArray(vocab) && vocab.some(([piece]) => piece === mark)
}

/** Character pairs joined by some BPE merge. No token spans any other pair, whatever the context. */
function junctionsOf({ merges }: TokenizerJson['model']): Set<string> {
  const junctions = new Set<string>()
  for (const merge of merges as (string | [string, string])[]) {
    const [left, right] = typeof merge === 'string' ? merge.split(' ') : merge
    junctions.add(left!.at(-1)! + right![0]!)
  }
  return junctions
}
