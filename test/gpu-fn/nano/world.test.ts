// The sprites in nano's training images, and the evaluation prompts.
import fs from 'node:fs/promises'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import { expect, test } from 'vitest'
import { NANO } from '../../../infra/local/models/built-in-model.ts'
import { readVocabulary } from '../../../infra/local/models/vocabulary.ts'

type Sprite = { mark: string; emoji: string; name: string }
type Prompt = {
  prompt: string
  sprites: { name: string; count: number }[]
  background: { top: string }
  relation?: string
  text?: string
}

const read = (name: string) => fs.readFile(path.join(NANO, name), 'utf8')
const sprites: Sprite[] = (await read('training/world/sprites.txt'))
  .split('\n')
  .filter((line) => line && !/^[#[]/.test(line))
  .map((line) => {
    const { mark = '', emoji, name } = /^(?:(?<mark>[+~]) )?(?<emoji>\S+) (?<name>.+)$/.exec(line)!.groups!
    return { mark, emoji: emoji!, name: name! }
  })
const prompts: Prompt[] = JSON.parse(await read('world-prompts.json'))

test('there are at least 600 sprites with unique emoji and unique names', () => {
  expect(sprites.length).toBeGreaterThanOrEqual(600)
  expect(new Set(sprites.map(({ name }) => name)).size).toBe(sprites.length)
  expect(new Set(sprites.map(({ emoji }) => emoji)).size).toBe(sprites.length)
})

test('the unmarked sprites are those of the published weights', async () => {
  const shipped = (await readVocabulary()).sprites.map(({ name }) => name)
  const known = sprites.filter(({ mark }) => mark === '').map(({ name }) => name)
  expect(known.toSorted()).toEqual(shipped.toSorted())
})

test('the 200 evaluation prompts cover single sprites, mixed counts, relations and text', () => {
  expect(prompts).toHaveLength(200)
  const kinds = [
    prompts.filter(({ sprites: [only, ...others], relation }) => only && others.length === 0 && !relation),
    prompts.filter(({ sprites: { length }, relation }) => length === 2 && !relation),
    prompts.filter(({ relation }) => relation),
    prompts.filter(({ text }) => text),
  ]
  expect(kinds.map(({ length }) => length)).toEqual([60, 40, 60, 40])
  for (const { sprites: asked } of kinds[1]!) {
    expect(asked.reduce((sum, { count }) => sum + count, 0)).toBeLessThanOrEqual(6)
  }
})

test('the prompts pair trained sprites with backgrounds in combinations held out from training', () => {
  const taught = new Set(sprites.filter(({ mark }) => mark !== '~').map(({ name }) => name))
  for (const { prompt, sprites: asked, background } of prompts.filter(({ text }) => !text)) {
    for (const { name } of asked) expect(taught, prompt).toContain(name)
    // Same rule as `held_out` in training/scenes/scene.py.
    expect(crc32(`${asked[0]!.name}|${background.top}`) % 8, prompt).toBe(0)
  }
})
