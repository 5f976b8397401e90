import { expect, test } from 'vitest'
import { type Figure, line, PART_FROM, PART_TO } from '../../../../infra/bench/gpu/plan.ts'
import { articleOf, replaceTable, tableOf } from '../../../../infra/bench/gpu/table.ts'

const about = { variant: 'large', device: 'a card' }
const createFigure = (system: string, metric: string, value: number, size: string | null = '1024x1024'): Figure => ({
  ...{ ...about, system, metric, size, value },
})
const FIGURES: Figure[] = [
  createFigure('torch-bf16', 'forward_ms', 80),
  createFigure('torch-bf16', 'turbo_s', 0.5),
  createFigure('octet-fp8', 'forward_ms', 40),
  createFigure('octet-fp8', 'turbo_s', 0.3),
  createFigure('octet-fp8', 'turbo_s', 0.25, '1024x768'),
  createFigure('octet-fp8', 'peak_mib_turbo', 7000, '1024x768'),
  createFigure('octet-fp8', 'load_s', 3, null),
  createFigure('octet-fp8', 'weights_gb', 17.43, null),
  { ...about, system: 'torch-torchao-compile', metric: 'run', size: null, value: null, error: 'Error: ended with 1' },
]

test('shows the ratio to PyTorch at the same size next to each figure', () => {
  const table = tableOf(FIGURES)
  expect(table).toContain('| 1024x1024 | one forward, ms | 4-step image, s |')
  expect(table).toContain('| octet-fp8 | 40.0 (0.50) | 0.30 (0.60) |')
  expect(table).toContain('| 1024x768 | 4-step image, s | GPU memory for an image, MiB |')
  expect(table).toContain('| octet-fp8 | 0.25 | 7000 |')
  expect(table).toContain('- torch-torchao-compile, run : Error: ended with 1')
})

test('shows the parts of each start in the order of their ends', () => {
  const parts = [
    createFigure('start-fp8', `${PART_FROM}transformer`, 0.9),
    createFigure('start-fp8', `${PART_TO}transformer`, 1.5),
    createFigure('start-fp8', `${PART_FROM}clip_l`, 0.6),
    createFigure('start-fp8', `${PART_TO}clip_l`, 0.84),
    createFigure('start-fp8-cold', `${PART_FROM}transformer`, 1),
    createFigure('start-fp8-cold', `${PART_TO}transformer`, 6.25),
  ]
  const table = tableOf([...FIGURES, ...parts])
  expect(table).toContain('| part | start-fp8: from, s | to, s | start-fp8-cold: from, s | to, s |')
  expect(table).toContain('| clip_l | 0.60 | 0.84 |  |  |\n| transformer | 0.90 | 1.50 | 1.00 | 6.25 |')
  expect(tableOf(FIGURES)).not.toContain('| part |')
})

test('a repeated measurement replaces the earlier figure', () => {
  expect(tableOf([...FIGURES, createFigure('octet-fp8', 'forward_ms', 20)])).toContain('| octet-fp8 | 20.0 (0.25) |')
})

test("reads the quality of the article's methods from the model card, and shows a dash for a missing figure", () => {
  const card =
    '| nano-turbo-fp8      | 93.5 %      | 95.2 %    | 82.5 % | 100.0 % | 63.5 % | 40.0    | 0.99 | 0.17 | 417 |'
  const table = articleOf(FIGURES, card)
  expect(table).toContain('| FP8 denoiser and T5, Octet | 17.4 | 7000 | 0.25 | – | 93.5 % | 40.0 |')
  expect(table).toContain('| FP8 and no T5, Octet | – | – | – | – | – | – |')
})

test('replaces only the text between the markers', () => {
  const text = 'before\n<!-- gpu-table -->\nold\n<!-- end of gpu-table -->\nafter $1\n'
  expect(replaceTable(text, 'new $& figures', 'a file')).toBe(
    'before\n<!-- gpu-table -->\n\nnew $& figures\n\n<!-- end of gpu-table -->\nafter $1\n',
  )
  expect(() => replaceTable('no marks', '', 'a file')).toThrow('a file has no <!-- gpu-table -->')
})

test('rejects lines of other programs', () => {
  expect(line.safeParse({ metric: 'turbo_s', size: null, value: 1 }).success).toBe(true)
  for (const other of [undefined, 3, {}, { metric: 'turbo_s', value: 'fast' }, { failed: 'turbo' }])
    expect(line.safeParse(other).success).toBe(false)
})
