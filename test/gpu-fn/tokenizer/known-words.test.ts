import path from 'node:path'
import { expect, test } from 'vitest'
import { describeUnknown, findUnknownWords, readKnownWords } from '../../../gpu-fn/tokenizer/known-words.ts'
import { CHECKPOINTS } from '../../../infra/local/models/built-in-model.ts'
import { readVocabulary } from '../../../infra/local/models/vocabulary.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
const known = (await readKnownWords(CHECKPOINTS['nano-turbo']))!

test('the vocabulary of nano includes all of its words, signs and faces', async () => {
  const { sprites, backgrounds } = await readVocabulary()
  const prompts = [...sprites.flatMap(({ name, words }) => [name, ...words]), ...backgrounds]
  expect(prompts.filter((prompt) => findUnknownWords(prompt, known).length > 0)).toEqual([])
  for (const prompt of [
    'a sign that says HELLO',
    'three laughing faces in the snow',
    'two wolves next to a house, at night',
    'two owls on a beach',
    'a cute rocket in space',
  ])
    expect(describeUnknown(prompt, known)).toBeNull()
})

test('words outside of the vocabulary are listed once, without the text to be drawn', () => {
  expect(describeUnknown('a Heron and a heron near a lighthouse with "Zyx abc"', known)).toBe(
    'the model does not know heron, lighthouse; it ignores these words or draws something else',
  )
  const many = Array.from({ length: 14 }, (_, k) => `${'x'.repeat(50)}${String.fromCharCode(97 + k)}`).join(' ')
  expect(describeUnknown(many, known)).toContain(`${'x'.repeat(40)} and 4 more`)
})

test('a model without a vocabulary accepts every word', async () => {
  expect(await readKnownWords(path.join(scratch.directory))).toBeNull()
})
