// The parts that a `tokenizer.json` may consist of: those of the published tokenizers. A pattern from outside could take exponential time.
import { CLIP_WORDS, type TokenizerJson } from './files.ts'
import { TokenizerError } from './sources.ts'

type Component = NonNullable<TokenizerJson['pre_tokenizer']>

/** CLIP's words without the special tokens, as transformers converts `vocab.json` and `merges.txt`. */
const CONVERTED_CLIP_WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"
const PATTERNS: ReadonlySet<unknown> = new Set([CLIP_WORDS, CONVERTED_CLIP_WORDS, '\\s+', ' {2,}'])
const TYPES = {
  normalizer: ['Sequence', 'NFC', 'NFKC', 'Replace', 'Lowercase', 'Precompiled', 'Strip', 'Prepend'],
  pre_tokenizer: ['Sequence', 'Split', 'ByteLevel', 'WhitespaceSplit', 'Metaspace'],
  post_processor: ['Sequence', 'ByteLevel', 'RobertaProcessing', 'TemplateProcessing'],
  decoder: ['Sequence', 'ByteLevel', 'Metaspace', 'BPEDecoder', 'Replace', 'ByteFallback', 'Fuse', 'Strip'],
  model: ['BPE', 'Unigram'],
} as const
/** Characters in the search text of a part. */
const MAX_TEXT = 16
/** Keys of the parts of a sequence. */
const SEQUENCES = ['normalizers', 'pretokenizers', 'processors', 'decoders']
/** Maximum number of parts in all sequences together; a sequence of a published tokenizer has at most 3. */
const MAX_PARTS = 16

/** Throws `TokenizerError` for a part or a regular expression that the published tokenizers do not have. */
export function assertPublishedParts(directory: string, definition: TokenizerJson): void {
  for (const [key, types] of Object.entries(TYPES)) {
    const parts = listParts(definition[key as keyof typeof TYPES] as Component | null)
    const fail = (problem: string) =>
      new TokenizerError(`${directory}: the ${key} of tokenizer.json ${problem}; use the published tokenizer`)
    if (parts.length > MAX_PARTS) throw fail(`has more than ${MAX_PARTS} parts`)
    for (const { type, pattern, content } of parts) {
      if (!(types as readonly unknown[]).includes(type))
        throw fail(`has the type ${describe(type)}; ${types.join(', ')} are supported`)
      if ((type === 'Split' || type === 'Replace') && !isKnownPattern(pattern))
        throw fail(`has the unknown pattern ${describe(pattern)}`)
      // Longer replacements could multiply a prompt's length.
      if (type === 'Replace' && !(typeof content === 'string' && [...content].length <= 1))
        throw fail('replaces text by more than one character')
    }
  }
}

const describe = (value: unknown) => String(JSON.stringify(value)).slice(0, 100)

function isKnownPattern(pattern: unknown): boolean {
  const { Regex, String: text } = (pattern ?? {}) as Record<string, unknown>
  if (Regex !== undefined) return PATTERNS.has(Regex)
  return typeof text === 'string' && text !== '' && text.length <= MAX_TEXT
}

/** A component and the parts of its sequences, up to one more than the maximum. */
function listParts(root: Component | null): Component[] {
  const parts = root ? [root] : []
  for (let i = 0; i < parts.length && parts.length <= MAX_PARTS; i++) {
    const nested = SEQUENCES.flatMap((key) => parts[i]![key] ?? []) as (Component | null)[]
    parts.push(...nested.slice(0, MAX_PARTS + 1).map((part) => part ?? { type: 'null' }))
  }
  return parts
}
