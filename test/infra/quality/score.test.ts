import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readVocabulary } from '../../../infra/local/models/vocabulary.ts'
import { type Detection, judge, openJudge } from '../../../infra/quality/judge.ts'
import { type QualityPrompt, readQualityPrompts } from '../../../infra/quality/prompts.ts'
import { formatTable, renderPage } from '../../../infra/quality/report.ts'
import { judgeImages, score } from '../../../infra/quality/score.ts'
import { readPixels } from '../../../infra/receipts/compare-images.ts'

const plain = (name: string) => ({ top: name, bottom: name })
const asked: QualityPrompt = {
  ...{ prompt: 'two cats <and> a dog on red', seed: 1, simple: false, background: plain('red') },
  sprites: [
    { name: 'cat', count: 2 },
    { name: 'dog', count: 1 },
  ],
}
const right: Detection = {
  ...{ sprites: { cat: 2, dog: 1 }, background: plain('red') },
  likeliest: ['dog', 'cat', 'fox', 'wolf'],
}
const blurred: Detection = { ...right, sprites: {} }

type Expected = [sprite: boolean, clear: boolean, background: boolean, count: boolean]
test.each<[string, Detection, Expected]>([
  ['all of it', right, [true, true, true, true]],
  ['one cat too few', { ...right, sprites: { cat: 1, dog: 1 } }, [true, true, true, false]],
  ['no dog', { ...right, sprites: { cat: 2 } }, [true, true, true, false]],
  ['only the dog', { ...right, sprites: { dog: 1 } }, [true, false, true, false]],
  ['nothing that is clear', blurred, [true, false, true, false]],
  ['more of a fox than of a cat', { ...blurred, likeliest: ['dog', 'fox', 'cat'] }, [false, false, true, false]],
  ['another color below', { ...right, background: { top: 'red', bottom: 'blue' } }, [true, true, false, true]],
])('an image with %s', (_, seen, [sprite, clear, background, count]) => {
  expect(judge(asked, seen)).toEqual({ sprite, clear, background, count })
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
    expect(score(configuration, prompts, judged, runs)).toEqual({
      ...{ configuration, images: 2, sprite: 0.5, clear: 0.5, background: 1, count: 0.5, simpleSprite: 0 },
      ...{ psnr: 100, ssim: 1, seconds: 2, peakMegabytes: 3 },
    })
  })

  test('are reported as a table and as a page with escaped text', async () => {
    const judged = await judgeImages(lookIn(), prompts, directory, null)
    const column = { judged, score: score(configuration, prompts, judged, runs) }
    const [headings, , row] = formatTable([column.score]).split('\n')
    expect(headings).toMatch(/^\| configuration \| main sprite \| if simple \| seen clearly \| background \|/)
    expect(formatTable([{ ...column.score, psnr: 100, ssim: 1 }])).toContain('| same    | 1.0000 |')
    expect(row).toMatch(
      /^\| nano-fp8 +\| 50\.0 % +\| 0\.0 % +\| 50\.0 % +\| 100\.0 % +\| 50\.0 % +\| – +\| – +\| 2\.00 +\| 3 +\|$/,
    )
    const text = String(await renderPage(prompts, [column], 2))
    expect(text).toContain('two cats &lt;and&gt; a dog on red')
    expect(text).toContain('✓ 2 cat, 1 dog on red')
    expect(text).toContain('✗ sprite, clear, count: perhaps wolf on red')
    expect(text.match(/src="data:image\/webp;base64,/g)).toHaveLength(2)
  })
})

describe('the judge', () => {
  test('detects a plain background without sprites, and rejects images of another size', async () => {
    const { detect, release } = await openJudge()
    try {
      const red = { create: { width: 256, height: 256, channels: 3, background: { r: 226, g: 54, b: 48 } } } as const
      const seen = await detect(await readPixels(await sharp(red).png().toBuffer()))
      expect(seen).toMatchObject({ sprites: {}, background: plain('red') })
      expect(seen.likeliest).toHaveLength(4)
      const small = await readPixels(await sharp(red).resize(64).png().toBuffer())
      await expect(detect(small)).rejects.toThrow('the image is 64x64 instead of 256x256')
    } finally {
      await release()
    }
  })

  test('has a class for every sprite and background of the fixed prompts', async () => {
    const { sprites, backgrounds } = await readVocabulary()
    const names = new Set(sprites.map(({ name }) => name))
    const prompts = await readQualityPrompts()
    expect(prompts).toHaveLength(200)
    for (const { sprites, background } of prompts) {
      expect(sprites.filter(({ name }) => !names.has(name))).toEqual([])
      expect(backgrounds).toEqual(expect.arrayContaining([background.top, background.bottom]))
    }
  })
})
