import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readVocabulary } from '../../../infra/local/models/vocabulary.ts'
import { writeContactSheet } from '../../../infra/quality/contact-sheet.ts'
import { type Detection, openJudge, readWord } from '../../../infra/quality/judge.ts'
import {
  type QualityPrompt,
  readHeldOutPrompts,
  readNaturalPrompts,
  readQualityPrompts,
} from '../../../infra/quality/prompts.ts'
import { formatTable, renderPage } from '../../../infra/quality/report.ts'
import { judgeImages, judgeNatural, score } from '../../../infra/quality/score.ts'
import { judge, showsEverything } from '../../../infra/quality/verdict.ts'
import { readPixels } from '../../../infra/receipts/compare-images.ts'

const createPlainPair = (name: string) => ({ top: name, bottom: name })
const asked: QualityPrompt = {
  ...{ prompt: 'two cats <and> a dog on red', seed: 1, simple: false, background: createPlainPair('red') },
  sprites: [
    { name: 'cat', count: 2 },
    { name: 'dog', count: 1 },
  ],
}
const right: Detection = {
  ...{ sprites: { cat: 2, dog: 1 }, background: createPlainPair('red'), word: '' },
  likeliest: ['dog', 'cat', 'fox', 'wolf'],
  places: { cat: { row: 16, column: 8, color: 'blue' }, dog: { row: 16, column: 24, color: null } },
}
const blurred: Detection = { ...right, sprites: {} }

type ExpectedChecks = [sprite: boolean, clear: boolean, background: boolean, count: boolean]
test.each<[string, Detection, ExpectedChecks]>([
  ['all of it', right, [true, true, true, true]],
  ['one cat too few', { ...right, sprites: { cat: 1, dog: 1 } }, [true, true, true, false]],
  ['no dog', { ...right, sprites: { cat: 2 } }, [true, true, true, false]],
  ['only the dog', { ...right, sprites: { dog: 1 } }, [true, false, true, false]],
  ['nothing that is clear', blurred, [true, false, true, false]],
  ['more of a fox than of a cat', { ...blurred, likeliest: ['dog', 'fox', 'cat'] }, [false, false, true, false]],
  ['another color below', { ...right, background: { top: 'red', bottom: 'blue' } }, [true, true, false, true]],
])('an image with %s', (_, seen, [sprite, clear, background, count]) => {
  const notStated = { color: null, relation: null, word: null }
  expect(judge(asked, seen)).toEqual({ sprite, clear, background, count, ...notStated })
})

const [cat, dog] = asked.sprites as [QualityPrompt['sprites'][0], QualityPrompt['sprites'][0]]
const below = { ...right, places: { ...right.places, dog: { row: 22, column: 8, color: null } } }

test.each<[string, Partial<QualityPrompt>, Detection, Partial<ReturnType<typeof judge>>]>([
  ['its color', { sprites: [{ ...cat, color: 'blue' }, dog] }, right, { color: true }],
  ['another color', { sprites: [{ ...cat, color: 'red' }, dog] }, right, { color: false }],
  ['one wrong color', { sprites: [cat, dog].map((each) => ({ ...each, color: 'blue' })) }, right, { color: false }],
  [
    'the color of an undetected sprite',
    { sprites: [{ name: 'owl', count: 1, color: 'red' }] },
    right,
    { color: false },
  ],
  ['the cat on the left', { relation: 'left' }, right, { relation: true }],
  ['the cat on the right', { relation: 'right' }, right, { relation: false }],
  ['the cats beside the dog', { relation: 'beside' }, right, { relation: true }],
  ['the cats on the dog', { relation: 'on' }, below, { relation: true }],
  ['the cats under the dog', { relation: 'wearing' }, below, { relation: false }],
  ['the relation of sprites that are not detected', { relation: 'left' }, blurred, { relation: false }],
  ['its word', { text: 'HI' }, { ...right, word: 'HI' }, { word: true }],
  ['half of its word', { text: 'HI' }, { ...right, word: 'H' }, { word: false }],
  ['any number', { sprites: [{ name: 'cat' }, dog] }, { ...right, sprites: { cat: 5, dog: 1 } }, { count: true }],
  [
    'an alternative sprite',
    { sprites: [{ name: 'fox', or: ['dog'], count: 1 }] },
    right,
    { sprite: true, clear: true, count: true },
  ],
])('an image with %s', (_, more, seen, verdict) => {
  expect(judge({ ...asked, ...more }, seen)).toMatchObject(verdict)
})

test('an image is correct if every sprite is detected and every criterion is met', () => {
  expect(showsEverything(asked, right)).toBe(true)
  expect(
    showsEverything({ ...asked, sprites: [{ name: 'cat' }, { name: 'dog' }] }, { ...right, sprites: { cat: 1 } }),
  ).toBe(false)
  expect(showsEverything({ ...asked, background: createPlainPair('sky') }, right)).toBe(false)
  const { prompt, seed, simple } = asked
  expect(showsEverything({ prompt, seed, simple, sprites: [] }, right)).toBeNull()
})

test('letters are read from left to right, at any height', () => {
  const heat = new Array(26 * 32 * 32).fill(0)
  const at = (letter: number, row: number, column: number) => (letter * 32 + row) * 32 + column
  heat[at(8, 3, 20)] = 0.5
  heat[at(7, 9, 4)] = 0.9
  expect(readWord(heat)).toBe('HI')
})

describe('the images of a directory', () => {
  let directory: string
  beforeAll(async () => {
    directory = await mkdtemp(path.join(os.tmpdir(), 'octet-quality-'))
    for (const [i, background] of ['#000000', '#0a0a0a'].entries())
      await sharp({ create: { width: 256, height: 256, channels: 3, background } }).toFile(
        path.join(directory, `${i}.png`),
      )
  })
  afterAll(() => rm(directory, { recursive: true }))

  const simple = { ...asked, simple: true }
  const prompts = [asked, simple]
  const configuration = { name: 'nano-fp8', model: 'nano', tier: 'fp8' } as const
  const runs = [1, 3, 2].map((seconds) => ({ seconds, peakBytes: seconds * 1e6 }))
  const seen = [right, { ...blurred, likeliest: ['wolf', 'fox'] }]
  /** Detects the content of the prompt in the first image, and nothing in the second. */
  const lookIn = () => ({ detect: async () => seen[next++ % 2]!, release: async () => {} })
  let next = 0

  test('are scored by their content, their similarity to the reference, and their cost', async () => {
    const judged = await judgeImages(lookIn(), prompts, directory, directory)
    expect(score(configuration, prompts, judged, [true, false, null], runs)).toEqual({
      ...{ configuration, images: 2, sprite: 0.5, clear: 0.5, background: 1, count: 0.5, simpleSprite: 0 },
      ...{ color: NaN, relation: NaN, word: NaN, natural: 0.5 },
      ...{ psnr: 100, ssim: 1, seconds: 2, peakMegabytes: 3 },
    })
  })

  test('are reported as a table and as a page with escaped text', async () => {
    const judged = await judgeImages(lookIn(), prompts, directory, null)
    const column = { judged, score: score(configuration, prompts, judged, [true], runs) }
    const [headings, , row] = formatTable([column.score]).split('\n')
    expect(headings).toMatch(/^\| configuration \| main sprite \| if simple \| seen clearly \| background \|/)
    expect(formatTable([{ ...column.score, psnr: 100, ssim: 1 }])).toContain('| same    | 1.0000 |')
    expect(row).toMatch(
      /^\| nano-fp8 +\| 50\.0 % +\| 0\.0 % +\| 50\.0 % +\| 100\.0 % +\| 50\.0 % +(\| – +){3}\| 100\.0 % +\| – +\| – +\| 2\.00 +\| 3 +\|$/,
    )
    const text = String(await renderPage(prompts, [column], 2))
    expect(text).toContain('two cats &lt;and&gt; a dog on red')
    expect(text).toContain('✓ 2 cat, 1 dog on red')
    expect(text).toContain('✗ sprite, clear, count: perhaps wolf on red')
    expect(text.match(/src="data:image\/webp;base64,/g)).toHaveLength(2)
  })

  test('of natural prompts are evaluated if contents are expected, and are all on a contact sheet', async () => {
    const { prompt, seed, simple } = asked
    const natural = [asked, { prompt, seed, simple, sprites: [] }]
    const shown = await judgeNatural(lookIn(), natural, directory)
    expect(shown).toEqual([true, null])
    const sheet = path.join(directory, 'sheet.jpg')
    await writeContactSheet(sheet, natural, shown, directory)
    const { width, height } = await sharp(sheet).metadata()
    expect([width, height]).toEqual([520, 312])
  })
})

describe('the judge', () => {
  test('detects a plain background without sprites, and rejects images of a different size', async () => {
    const { detect, release } = await openJudge()
    try {
      const red = { create: { width: 256, height: 256, channels: 3, background: { r: 226, g: 54, b: 48 } } } as const
      const seen = await detect(await readPixels(await sharp(red).png().toBuffer()))
      expect(seen).toMatchObject({ sprites: {}, background: createPlainPair('red'), word: '' })
      expect(seen.likeliest).toHaveLength(4)
      const small = await readPixels(await sharp(red).resize(64).png().toBuffer())
      await expect(detect(small)).rejects.toThrow('the image is 64x64 instead of 256x256')
    } finally {
      await release()
    }
  })

  test('has a class for every sprite and background of the fixed prompts', async () => {
    const { sprites, backgrounds, colors } = await readVocabulary()
    const names = new Set(sprites.map(({ name }) => name))
    const [first, all, natural] = [await readQualityPrompts(), await readHeldOutPrompts(), await readNaturalPrompts()]
    expect([first.length, all.length, natural.length]).toEqual([200, 400, 60])
    expect(all.slice(0, 200)).toEqual(first)
    expect(new Set([...all, ...natural].map(({ prompt }) => prompt)).size).toBe(460)
    for (const { sprites, background, relation } of [...all, ...natural]) {
      expect(sprites.flatMap(({ name, or = [] }) => [name, ...or]).filter((name) => !names.has(name))).toEqual([])
      expect(colors).toEqual(expect.arrayContaining(sprites.flatMap(({ color }) => color ?? [])))
      if (background) expect(backgrounds).toEqual(expect.arrayContaining([background.top, background.bottom]))
      if (relation) expect(sprites).toHaveLength(2)
    }
  })
})
