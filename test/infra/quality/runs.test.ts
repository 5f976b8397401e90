import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { readParameters } from '../../../gpu-fn/pipeline/image.ts'
import type { QualityPrompt } from '../../../infra/quality/prompts.ts'
import { makeImages } from '../../../infra/quality/runs.ts'

let out: string
beforeAll(async () => {
  out = await mkdtemp(path.join(os.tmpdir(), 'octet-quality-'))
})
afterAll(() => rm(out, { recursive: true }))

const configuration = { name: 'nano-turbo-fp8', model: 'nano-turbo', tier: 'fp8' } as const
const prompts: QualityPrompt[] = ['a cat', 'a dog', 'a fox'].map((prompt, seed) => ({
  ...{ prompt, seed, simple: true, background: { top: 'red', bottom: 'red' } },
  sprites: [{ name: prompt.slice(2), count: 1 }],
}))

test('existing images are not generated again, except incomplete ones', async () => {
  const onImage = vi.fn()
  const { directory, runs } = await makeImages(out, configuration, prompts, 2, onImage)
  expect([onImage.mock.calls.length, runs.length]).toEqual([2, 2])
  const timesOf = () => Promise.all([0, 1].map(async (i) => (await stat(path.join(directory, `${i}.png`))).mtimeMs))
  const before = await timesOf()
  await writeFile(path.join(directory, '1.json'), '{"seconds":')
  const again = await makeImages(out, configuration, prompts, 3, onImage)
  expect(again.directory).toBe(directory)
  const after = await timesOf()
  expect([after[0] === before[0], after[1] === before[1]]).toEqual([true, false])
  expect(again.runs).toHaveLength(3)
  for (const { seconds, peakBytes } of again.runs) {
    expect(seconds).toBeGreaterThan(0)
    expect(peakBytes).toBeGreaterThan(1e7)
  }
  const made = await readParameters(await readFile(path.join(directory, '2.png')))
  expect(made).toMatchObject({
    prompt: 'a fox',
    seed: 2,
    steps: 4,
    guidance_scale: 1,
    model: 'nano-turbo',
    tier: 'fp8',
  })
})

test('other prompts use another directory', async () => {
  const same = await makeImages(out, configuration, prompts, 0, () => {})
  const other = await makeImages(out, configuration, prompts.toReversed(), 0, () => {})
  expect(other.directory).not.toBe(same.directory)
})
