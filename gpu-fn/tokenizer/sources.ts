// The files of a tokenizer directory. They are untrusted, so their sizes and their numbers of entries are bounded before they are parsed.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { escapeText } from '../contract.ts'

const CONFIGURATIONS = ['tokenizer_config.json', 'special_tokens_map.json'] as const
/** The first complete set of these files defines the tokenizer. */
const DEFINITIONS = [['tokenizer.json'], ['vocab.json', 'merges.txt'], ['spiece.model']] as const
/** The files of a tokenizer directory that may be read. */
export const TOKENIZER_FILES = [...CONFIGURATIONS, ...DEFINITIONS.flat()] as const
export type TokenizerFileName = (typeof TOKENIZER_FILES)[number]
/** The content of the files that exist. */
export type TokenizerSources = ReadonlyMap<TokenizerFileName, Uint8Array>

/** Limits on a tokenizer. The largest published file of SD3.5 has 2.4 MB, its largest vocabulary 49,408 tokens and 48,894 merges. */
export const TOKENIZER_LIMITS = { fileBytes: 8_000_000, values: 400_000, tokens: 131_072 } as const

/** Maximum length of a message, because messages quote tokens of any length. */
const MESSAGE_CHARACTERS = 1000

/** An unusable tokenizer directory; the message names the file and the problem. */
export class TokenizerError extends Error {
  override name = 'TokenizerError' as const

  constructor(message: string, options?: ErrorOptions) {
    super(escapeText(message).slice(0, MESSAGE_CHARACTERS), options)
  }
}

/** Reads the files of a tokenizer directory. Throws `TokenizerError`. */
export async function readTokenizerDirectory(directory: string): Promise<TokenizerSources> {
  const sources = new Map<TokenizerFileName, Uint8Array>()
  for (const name of TOKENIZER_FILES) {
    try {
      sources.set(name, await readFile(path.join(directory, name)))
    } catch (cause) {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') continue
      throw new TokenizerError(`cannot read ${path.join(directory, name)}`, { cause })
    }
  }
  return sources
}

/** The files of a directory that define its tokenizer; the others are not read. */
export function selectSources(sources: TokenizerSources): TokenizerSources {
  const definition = DEFINITIONS.find((names) => names.every((name) => sources.has(name))) ?? []
  const read: readonly TokenizerFileName[] = [...CONFIGURATIONS, ...definition]
  return new Map([...sources].filter(([name]) => read.includes(name)))
}

/** The merges of `merges.txt`: two tokens per line, after an optional first line `#version`. */
export function readMerges(directory: string, sources: TokenizerSources): string[] | undefined {
  const text = readText(directory, sources, 'merges.txt', '\n', TOKENIZER_LIMITS.tokens)
  const merges = text?.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#version'))
  const malformed = merges?.find((line) => !/^[^ ]+ [^ ]+$/.test(line))
  if (malformed === undefined) return merges
  const problem = `the line ${JSON.stringify(malformed.slice(0, 100))} is not two tokens with a space between them`
  throw new TokenizerError(`${path.join(directory, 'merges.txt')}: ${problem}`)
}

/** Reads a text file. Throws for more than `limit` occurrences of the character `mark`, which bounds the memory for parsing. */
export function readText(
  directory: string,
  sources: TokenizerSources,
  name: TokenizerFileName,
  mark: string,
  limit: number,
): string | undefined {
  const bytes = sources.get(name)
  if (!bytes) return undefined
  const fail = (problem: string) => new TokenizerError(`${path.join(directory, name)} ${problem}`)
  const { fileBytes } = TOKENIZER_LIMITS
  if (bytes.length > fileBytes) throw fail(`has ${bytes.length} bytes; at most ${fileBytes} are allowed`)
  let marks = 0
  for (const byte of bytes)
    if (byte === mark.charCodeAt(0) && ++marks > limit) throw fail(`has more than ${limit} entries`)
  return new TextDecoder().decode(bytes)
}
