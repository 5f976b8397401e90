// The vocabulary of a small model: words.json of its checkpoint and package. The vocabulary of models without the file is unlimited.
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'

export const WORDS = 'words.json'
const MAX_BYTES = 1 << 20
const LISTED_WORDS = 10
const WORD_CHARACTERS = 40

export type KnownWords = ReadonlySet<string>

/** Reads the known words of a checkpoint or package; null if the directory has none. Throws for a malformed file. */
export async function readKnownWords(directory: string): Promise<KnownWords | null> {
  const file = path.join(directory, WORDS)
  const { size } = await stat(file).catch(() => ({ size: 0 }))
  if (size === 0) return null
  if (size > MAX_BYTES) throw new Error(`${file} has ${size} bytes; at most ${MAX_BYTES} are allowed`)
  const words = z.array(z.string()).safeParse(JSON.parse(await readFile(file, 'utf8')))
  if (!words.success) throw new Error(`${file} is not a list of words`)
  return new Set(words.data)
}

/** The singular forms that an English plural may have, and the word itself. */
const formsOf = (word: string): string[] => [
  word,
  word.replace(/s$/, ''),
  word.replace(/es$/, ''),
  word.replace(/ies$/, 'y'),
]

/** The words of a prompt outside the model's vocabulary. Excludes words in quotation marks or capitals, which are drawn as letters. */
export function findUnknownWords(prompt: string, known: KnownWords): string[] {
  const text = prompt.replaceAll(/"[^"]*"|“[^“”]*”/g, ' ').replaceAll(/\b[A-Z]{2,}\b/g, ' ')
  const words = text.toLowerCase().match(/\p{L}+/gu) ?? []
  return [...new Set(words)].filter((word) => word.length > 1 && !formsOf(word).some((form) => known.has(form)))
}

/** The warning for the unknown words of a prompt; null if there are none. */
export function describeUnknown(prompt: string, known: KnownWords): string | null {
  const words = findUnknownWords(prompt, known)
  if (words.length === 0) return null
  const listed = words.slice(0, LISTED_WORDS).map((word) => word.slice(0, WORD_CHARACTERS))
  const others = words.length > LISTED_WORDS ? ` and ${words.length - LISTED_WORDS} more` : ''
  return `the model does not know ${listed.join(', ')}${others}; it ignores these words or draws something else`
}
