// Cuts a prompt into pieces whose tokens, one after another, are the tokens of the whole: a long prompt is then tokenized as far as needed.
import { CLIP_WORDS, type TokenizerJson } from './tokenizer-files.ts'

/** `text`, and the character behind it where the cut is inside a word: the tokens are those of both without those of `next` alone. */
export type Piece = { text: string; next: string }

/** Finds where to cut. `junctions` is null for a tokenizer whose words must stay whole. */
export type Cutter = { junctions: ReadonlySet<string> | null }

/**
 * Letters that are graphemes of their own beside a space and beside each other, and that NFC combines with neither: Kana without its
 * marks, Han, and Hangul syllables. They have three bytes in UTF-8.
 */
const WIDE = '\\u3041-\\u3096\\u30a1-\\u30fa\\u4e00-\\u9fff\\uac00-\\ud7a3'
/** The same of other scripts: ASCII letters and digits, and Cyrillic. */
const PLAIN = `0-9A-Za-z\\u0410-\\u044f${WIDE}`
const SPACE_BETWEEN_WORDS = new RegExp(`(?<=[${PLAIN},.;:!?)"']) (?=[${PLAIN}])`, 'y')
const INSIDE_WORD = new RegExp(`(?<=[${WIDE}])(?=[${WIDE}])`, 'y')

/** Yields the text in pieces of `characters` or more; the last may be shorter. A text without a place to cut is one piece. */
export function* cutIntoPieces(text: string, { junctions }: Cutter, characters: number): Generator<Piece> {
  let start = 0
  for (let at = characters; at < text.length; at++) {
    if (matchesAt(SPACE_BETWEEN_WORDS, text, at)) {
      yield { text: text.slice(start, at), next: '' }
      start = at + 1
    } else if (junctions && matchesAt(INSIDE_WORD, text, at) && !junctions.has(junctionAt(text, at))) {
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

/** Byte-level BPE's character for each byte: GPT-2's `bytes_to_unicode`. */
const BYTE_CHARACTERS: readonly string[] = (() => {
  let unprintable = 256
  const isPrintable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173)
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : unprintable++))
})()

/** The last byte of the wide letter before `at`, and the first of the one behind, as BPE's characters. */
function junctionAt(text: string, at: number): string {
  const lastByte = 0x80 | (text.charCodeAt(at - 1) & 0x3f)
  const firstByte = 0xe0 | (text.charCodeAt(at) >> 12)
  return BYTE_CHARACTERS[lastByte]! + BYTE_CHARACTERS[firstByte]!
}

type Component = NonNullable<TokenizerJson['pre_tokenizer']>

/**
 * The cutter of a tokenizer, if its tokens are those of its words one after another: that is proven for the kinds of SD3.5's tokenizers.
 * Null for another kind, whose prompts are tokenized as a whole.
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

/** Whether a Unigram model's words begin with a known token. It joins unknown tokens, and would join them across words otherwise. */
function marksEachWord([metaspace, ...others]: Component[], { type, vocab }: TokenizerJson['model']): boolean {
  if (type !== 'Unigram' || metaspace?.type !== 'Metaspace' || others.length > 0) return false
  const { replacement: mark = '▁', prepend_scheme: scheme = 'always' } = metaspace
  return scheme === 'always' && Array.isArray(vocab) && vocab.some(([piece]) => piece === mark)
}

/** Pairs of characters that some merge of BPE joins. Between any others no token can lie, whatever is around them. */
function junctionsOf({ merges }: TokenizerJson['model']): Set<string> {
  const junctions = new Set<string>()
  for (const merge of merges as (string | [string, string])[]) {
    const [left, right] = typeof merge === 'string' ? merge.split(' ') : merge
    junctions.add(left!.at(-1)! + right![0]!)
  }
  return junctions
}
