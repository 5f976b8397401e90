import { expect, test } from 'vitest'
import { findDrawableObjects, readVocabulary } from '../../../../infra/local/models/vocabulary.ts'

const vocabulary = {
  sprites: [
    { name: 'cat', words: ['cat', 'kitty'] },
    { name: 'red heart', words: ['red heart', 'heart'] },
    { name: 'strawberry', words: ['strawberry'] },
  ],
  groups: { flower: [2] },
  backgrounds: ['red', 'blue', 'sky'],
}

test.each([
  ['a red heart on a blue background', ['red heart', 'blue']],
  ['Two HEARTS in the sky', ['red heart', 'sky']],
  ['three strawberries and some kitties', ['strawberry', 'cat']],
  ['some flowers', ['flower']],
  ['a category of blueness', []],
  ['a city at night, best quality', []],
])('%s', (prompt, known) => {
  expect(findDrawableObjects(prompt, vocabulary)).toEqual(known)
})

test('every single name of nano’s vocabulary is recognized', async () => {
  const nano = await readVocabulary()
  for (const { name } of nano.sprites) expect(findDrawableObjects(`a ${name}`, nano)).toContain(name)
  for (const name of Object.keys(nano.groups)) expect(findDrawableObjects(`a ${name}`, nano)).not.toEqual([])
  for (const name of nano.backgrounds) expect(findDrawableObjects(`on ${name}`, nano)).toContain(name)
})
