import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { expect, onTestFinished, test, vi } from 'vitest'
import { type Figure, figure } from '../../../../infra/bench/gpu/plan.ts'
import { Recorder } from '../../../../infra/bench/gpu/recorder.ts'

/** Runs a program that prints `lines`, and returns the figures in the file. */
async function figuresOf(lines: readonly string[], end = ''): Promise<{ recorded: Figure[]; problem: unknown }> {
  vi.spyOn(console, 'error').mockImplementation(() => {})
  const work = await mkdtemp(path.join(os.tmpdir(), 'octet-recorder-'))
  onTestFinished(() => rm(work, { recursive: true }))
  await mkdir(path.join(work, 'reference'))
  const picture = sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
  await picture.png().toFile(path.join(work, 'reference', 'turbo-8x8.png'))
  await picture.png().toFile(path.join(work, 'picture.png'))
  const script = path.join(work, 'program.mjs')
  const said = lines.map((text) => text.replace('WORK', work))
  await writeFile(script, `for (const line of ${JSON.stringify(said)}) console.log(line); ${end}`)
  const out = path.join(work, 'out.jsonl')
  const recorder = new Recorder({ variant: 'large', device: 'a card', out, work, seconds: 2 })
  const problem = await recorder.runProgram('a-system', [process.execPath, script], {}).catch((error) => error)
  await recorder.close()
  const rows = (await readFile(out, 'utf8')).split('\n').filter(Boolean)
  return { recorded: rows.map((text) => figure.parse(JSON.parse(text))), problem }
}

test('records the figures of a program, and skips other output', async () => {
  const { recorded, problem } = await figuresOf([
    '{"phase": "turbo", "size": "8x8"}',
    'Loading …',
    '{"metric": "turbo_s"}',
    '{"metric": "turbo_s", "size": "8x8", "value": 0.5}',
    '{"failed": "decode", "error": "out of memory"}',
    '{"image": "WORK/picture.png", "size": "8x8"}',
    '{"image": "WORK/none.png", "size": "8x8"}',
  ])
  expect(problem).toBeUndefined()
  const about = { variant: 'large', device: 'a card', system: 'a-system' }
  expect(recorded).toContainEqual({ ...about, metric: 'turbo_s', size: '8x8', value: 0.5 })
  expect(recorded).toContainEqual({ ...about, metric: 'decode', size: null, value: null, error: 'out of memory' })
  expect(recorded).toContainEqual({ ...about, metric: 'psnr_db', size: '8x8', value: 99 })
  expect(recorded.filter(({ metric, error }) => metric === 'psnr_db' && error)).toHaveLength(1)
})

test.each([
  ['fails', 'process.exit(3)', 'the program ended with 3'],
  ['hangs', 'setInterval(() => {}, 1000)', 'the program ended with SIGKILL'],
])('records the figures of a program before it %s', async (_, end, message) => {
  const { recorded, problem } = await figuresOf(['{"metric": "load_s", "value": 2}'], end)
  expect(problem).toMatchObject({ message })
  expect(recorded).toMatchObject([{ metric: 'load_s', value: 2 }])
})
