// The objects that nano can draw, and the words for them.
import fs from 'node:fs/promises'
import path from 'node:path'
import * as z from 'zod'
import { NANO } from './built-in-model.ts'

/** In the order of the outputs of nano's judge. */
const vocabulary = z.object({
  sprites: z.array(z.object({ name: z.string(), words: z.array(z.string()) })),
  /** Words of several sprites, such as "bird". */
  groups: z.record(z.string(), z.array(z.int())),
  backgrounds: z.array(z.string()),
  /** Colors and materials of objects. */
  colors: z.array(z.string()),
})
export type Vocabulary = z.infer<typeof vocabulary>

export const readVocabulary = async (): Promise<Vocabulary> =>
  vocabulary.parse(JSON.parse(await fs.readFile(path.join(NANO, 'vocabulary.json'), 'utf8')))

/** The sprites, groups and backgrounds named in a prompt, in singular or plural. Of overlapping words, only the longest counts. */
export function findDrawableObjects(
  prompt: string,
  { sprites, groups, backgrounds }: Pick<Vocabulary, 'sprites' | 'groups' | 'backgrounds'>,
): string[] {
  const words = [
    ...sprites.flatMap(({ name, words }) => [name, ...words].map((word) => ({ word, name }))),
    ...[...Object.keys(groups), ...backgrounds].map((name) => ({ word: name, name })),
  ]
  const found = new Set<string>()
  let rest = prompt
  for (const { word, name } of words.toSorted((a, b) => b.word.length - a.word.length)) {
    const left = rest.replaceAll(new RegExp(`\\b${word.replace(/y$/, '(y|ie)')}(s|es)?\\b`, 'gi'), '·')
    if (left !== rest) found.add(name)
    rest = left
  }
  return [...found]
}
