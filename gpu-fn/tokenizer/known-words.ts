// The words that a small model knows: words.json of its checkpoint and package. Models without the file have no limit.
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'

export const WORDS = 'words.json'
const BYTES = 1 << 20
const LISTED = 10
const CHARACTERS = 40

export type KnownWords = ReadonlySet<string>

/** Reads the known words of a checkpoint or package; null if the directory has none. Throws for a malformed file. */
export async function readKnownWords(directory: string): Promise<KnownWords | null> {
  const file = path.join(directory, WORDS)
  const { size } = await stat(file).catch(() => ({ size: 0 }))
  if (size === 0) return null
  if (size > BYTES) throw new Error(`${file} has ${size} bytes; at most ${BYTES} are read`)
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

/** The words of a prompt that the model does not know, without those in quotation marks, which are drawn as letters, and in capitals. */
export function unknownWords(prompt: string, known: KnownWords): string[] {
  const text = prompt.replaceAll(/"[^"]*"|“[^“”]*”/g, ' ').replaceAll(/\b[A-Z]{2,}\b/g, ' ')
  const words = text.toLowerCase().match(/\p{L}+/gu) ?? []
  return [...new Set(words)].filter((word) => word.length > 1 && !formsOf(word).some((form) => known.has(form)))
}

/** The warning for the unknown words of a prompt; null if there are none. */
export function describeUnknown(prompt: string, known: KnownWords): string | null {
  const words = unknownWords(prompt, known)
  if (words.length === 0) return null
  const listed = words.slice(0, LISTED).map((word) => word.slice(0, CHARACTERS))
  const others = words.length > LISTED ? ` and ${words.length - LISTED} more` : ''
  return `the model does not know ${listed.join(', ')}${others}; it ignores these words or draws something else`
}
