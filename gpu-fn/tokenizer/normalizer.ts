// Text normalization exactly as in Hugging Face's `tokenizers` (Rust), where the JavaScript port differs: SentencePiece's compiled character
// map, which the port approximates by NFKC, and lower case without context (no final sigma).
import { SequenceNormalizer } from '@huggingface/tokenizers'

type NormalizerConfig = { type: string; [option: string]: unknown }
type Normalize = (text: string) => string

/** The normalizer that a `tokenizer.json` describes. Throws for a type that the library lacks, or a malformed map. */
export function createExactNormalizer(config: NormalizerConfig): Normalize {
  switch (config.type) {
    case 'Sequence': {
      const parts = (config.normalizers as NormalizerConfig[]).map(createExactNormalizer)
      return (text) => parts.reduce((result, part) => part(result), text)
    }
    case 'Precompiled':
      return parseCharacterMap(String(config.precompiled_charsmap))
    case 'Lowercase':
      return (text) => Array.from(text, (character) => character.toLowerCase()).join('')
    default: {
      const library = new SequenceNormalizer({ type: 'Sequence', normalizers: [config] })
      return (text) => library.normalize(text)
    }
  }
}

/** Printable ASCII, Kana without combining marks, and Han: next to each other, each is a separate grapheme. */
const PLAIN = ' -~\\u3041-\\u3096\\u30a1-\\u30fa\\u4e00-\\u9fff'
/** Handled without the segmenter, which would otherwise dominate the run time. */
const PLAIN_RUN = new RegExp(`(?<=[${PLAIN}]|^)[${PLAIN}]+(?=[${PLAIN}]|$)`, 'g')

/** Graphemes of at least this many UTF-8 bytes are looked up character by character. */
const LONG_GRAPHEME_BYTES = 6
const graphemes = new Intl.Segmenter('und', { granularity: 'grapheme' })
const utf8 = new TextEncoder()

/** SentencePiece's `precompiled_charsmap`, base64: a Darts double array after its size in bytes, then NUL-ended replacements. */
function parseCharacterMap(base64: string): Normalize {
  const bytes = Buffer.from(base64, 'base64')
  const arrayBytes = bytes.length >= 4 ? bytes.readUInt32LE(0) : 0
  if (arrayBytes === 0 || arrayBytes % 4 !== 0 || arrayBytes + 4 > bytes.length) {
    throw new Error('precompiled_charsmap is empty or truncated')
  }
  const units = new Uint32Array(Uint8Array.from(bytes.subarray(4, 4 + arrayBytes)).buffer)
  const replacements = bytes.subarray(4 + arrayBytes)
  assertShort(replacements)
  const lookUp = (text: string) => {
    const start = findShortestMatch(units, utf8.encode(text))
    return start === undefined ? undefined : replacements.toString('utf8', start, replacements.indexOf(0, start))
  }
  const normalizeByCharacter = (grapheme: string) =>
    Array.from(grapheme, (character) => lookUp(character) ?? character).join('')
  const normalizeByGrapheme = (text: string) => {
    let result = ''
    for (const { segment } of graphemes.segment(text)) {
      const whole = utf8.encode(segment).length < LONG_GRAPHEME_BYTES ? lookUp(segment) : undefined
      result += whole ?? normalizeByCharacter(segment)
    }
    return result
  }
  const known = new Map<string, string>()
  const normalizePlain = (character: string) => {
    const found = known.get(character) ?? lookUp(character) ?? character
    known.set(character, found)
    return found
  }
  return (text) => {
    let result = ''
    let done = 0
    for (const { 0: run, index } of text.matchAll(PLAIN_RUN)) {
      result += normalizeByGrapheme(text.slice(done, index))
      for (const character of run) result += normalizePlain(character)
      done = index + run.length
    }
    return result + normalizeByGrapheme(text.slice(done))
  }
}

/** The longest published replacement has 33 bytes; longer ones could make a prompt exceed the memory. */
const MAX_REPLACEMENT_BYTES = 256

function assertShort(replacements: Buffer): void {
  for (let start = 0, end = 0; start < replacements.length; start = end + 1) {
    end = replacements.indexOf(0, start)
    if (end < 0) end = replacements.length
    if (end - start > MAX_REPLACEMENT_BYTES)
      throw new Error(
        `precompiled_charsmap has a replacement of ${end - start} bytes; at most ${MAX_REPLACEMENT_BYTES} are allowed`,
      )
  }
}

/** The value of the shortest key that is a prefix of `key`. SentencePiece takes the longest, `tokenizers` the shortest. */
function findShortestMatch(units: Uint32Array, key: Uint8Array): number | undefined {
  let at = childrenOf(units[0]!)
  for (const byte of key) {
    if (byte === 0) return undefined
    at ^= byte
    const unit = units[at] ?? 0
    if ((unit & 0x800000ff) >>> 0 !== byte) return undefined
    at ^= childrenOf(unit)
    if (unit & 0x100) return (units[at] ?? 0) & 0x7fffffff
  }
  return undefined
}

function childrenOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6)
}
