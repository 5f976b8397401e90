import { existsSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import type { Figure } from '../../../../../infra/bench/gpu/plan.ts'
import { parseCard } from '../../../../../infra/bench/gpu/short/card.ts'
import { describeSending, issueAddress, TEMPLATE } from '../../../../../infra/bench/gpu/short/issue.ts'
import { parseCase } from '../../../../../infra/bench/gpu/short/kernel-cases.ts'
import { type Report, removePaths, reportOf } from '../../../../../infra/bench/gpu/short/report.ts'
import { chooseImages, chooseStep } from '../../../../../infra/bench/gpu/short/short.ts'
import { ROOT } from '../../../../../infra/local/models/package-cache.ts'

const createFigure = (
  system: string,
  metric: string,
  value: number | null,
  size: string | null = null,
  error?: string,
) => ({
  ...{ variant: 'medium', device: 'a card', system, metric, size, value },
  ...(error !== undefined && { error }),
})
const report = (figures: Figure[], change: Partial<Report> = {}): string =>
  reportOf({
    card: {
      ...{ gpu: 'NVIDIA L40S', capability: '8.9', memoryMib: 46_068, driver: '580.95.05', cuda: '13.0' },
      ...{ host: 'a CPU, 16 threads, 128 GiB, Node 24.21.0', octet: '0.1.0, commit abc1234' },
    },
    figures,
    step: { variant: 'large', size: '1024x1024', reason: 'random weights' },
    images: { variant: 'medium', reason: 'the reason' },
    target: { name: 'cuda-fp8', reason: 'NVIDIA L40S has compute capability 8.9' },
    ...{ sizes: ['1024x1024', '512x512'], fullSizes: ['1024x1024'], steps: 28, rates: '| rates |' },
    ...change,
  })

test('the report contains each measurement with its unit', () => {
  const text = report([
    ...[createFigure('kernels', 'results', 84), createFigure('kernels', 'passed', 84)],
    ...[createFigure('step', 'fp8_ms', 101.23, '1024x1024'), createFigure('step', 'half_ms', 230, '1024x1024')],
    ...[createFigure('step', 'peak_mib', 7012.4), createFigure('package', 'make_s', 61.2)],
    ...[
      createFigure('images', 'start_ready_s', 5.25, '1024x1024'),
      createFigure('images', 'first_image_s', 5.5, '1024x1024'),
    ],
    ...[createFigure('images', 'turbo_s', 0.5, '1024x1024'), createFigure('images', 'turbo_s', 0.2, '512x512')],
    ...[createFigure('images', 'full_s', 4, '1024x1024'), createFigure('images', 'peak_mib_before', 3)],
    ...[createFigure('images', 'peak_mib_turbo_s', 12_000), createFigure('images', 'peak_mib_full_s', 13_293)],
  ])
  expect(text).toMatch(/^## NVIDIA L40S\n\n\| \| \|\n\|---\|---\|\n/)
  for (const row of [
    '| compute capability | 8.9 |',
    '| memory | 46,068 MiB |',
    '| driver; newest CUDA of the driver | 580.95.05; 13.0 |',
    '| target | cuda-fp8 (NVIDIA L40S has compute capability 8.9) |',
    '| FP8 operators within tolerance, native and portable | 84 of 84 |',
    '| step of large, 1024², FP8 products (random weights) | 101.2 ms |',
    '| step of large, 1024², 16-bit products | 230.0 ms |',
    '| model of the images | medium, fp8, random weights (the reason) |',
    '| checkpoint and package | 61.20 s |',
    '| → warm and ready | 5.25 s |',
    '| → first image of 1024², 4 steps | 5.50 s |',
    '| warm image of 512², 4 steps | 0.20 s |',
    '| warm image of 1024², 28 steps with guidance | 4.00 s |',
    '| GPU memory in use before the start | 3 MiB |',
    '| GPU memory in use, peak of start and images | 13,293 MiB |',
  ])
    expect(text).toContain(row)
  expect(text).toMatch(/\n\n\| rates \|$/)
})

test('the report contains the error of a failed part', () => {
  const text = report(
    [
      ...[createFigure('kernels', 'results', 50), createFigure('kernels', 'passed', 49)],
      createFigure('kernels', 'case', null, null, 'attention, portable: wrong: y 1e-1'),
      createFigure('kernels', 'run', null, null, 'Error: the checks ended with SIGSEGV'),
      createFigure('operators', 'run', null, null, 'Error: python3 has no PyTorch'),
      createFigure('step', 'fp8_ms', null, '1024x1024', 'Error: no kernel\nfor this device'),
      createFigure('step', 'half_ms', 230, '1024x1024'),
      createFigure('images', 'run', null, null, 'Error: 27 GB | are needed'),
    ],
    { rates: null },
  )
  expect(text).toContain('| 49 of 50; the checks ended with SIGSEGV |')
  expect(text).toContain('Out of tolerance:\n\n- attention, portable: wrong: y 1e-1')
  expect(text).toContain('FP8 products (random weights) | not measured: no kernel for this device |')
  expect(text).toContain('16-bit products | 230.0 ms |')
  expect(text).toContain('| checkpoint and package | not made: 27 GB \\| are needed |')
  expect(text).toContain('| warm image of 512², 4 steps | not measured: 27 GB \\| are needed |')
  expect(text).toContain('Rates of the operators: not measured: python3 has no PyTorch')
})

test('absolute paths are removed from the report', () => {
  const file = path.join(ROOT, 'gpu-fn/kernels/dist/liboctet-kernels.so')
  expect(removePaths(`${file} is missing; ${os.homedir()}/packages`)).toBe(
    'gpu-fn/kernels/dist/liboctet-kernels.so is missing; ~/packages',
  )
})

test('an error at one size does not affect other sizes', () => {
  const figures = [
    createFigure('images', 'turbo_s', null, '1024x1024', 'Error: out of memory'),
    createFigure('images', 'turbo_s', 0.2, '512x512'),
  ]
  expect(report(figures)).toContain('| warm image of 1024², 4 steps | not measured: out of memory |')
  expect(report(figures)).toContain('| warm image of 512², 4 steps | 0.20 s |')
})

test('GPU properties are parsed from the output of nvidia-smi', () => {
  const details =
    'Driver Version                            : 580.95.05\nCUDA Version                              : 13.0\n'
  expect(parseCard('8.9, 46068, 580.95.05, NVIDIA L40S', details)).toEqual({
    ...{ gpu: 'NVIDIA L40S', capability: '8.9', memoryMib: 46_068, driver: '580.95.05', cuda: '13.0' },
  })
  expect(parseCard('', '')).toEqual({
    ...{ gpu: 'unknown', capability: 'unknown', memoryMib: null, driver: 'unknown', cuda: 'unknown' },
  })
})

test('case results are parsed from the output of the kernel test', () => {
  const lines = [
    'GPU: NVIDIA L40S',
    '  a tile: ok: y 1e-4',
    '✗ odd sizes, portable: wrong: y 2e-1',
    'all 42 cases pass',
  ]
  expect(lines.map(parseCase)).toEqual([
    null,
    { passed: true, text: 'a tile: ok: y 1e-4' },
    { passed: false, text: 'odd sizes, portable: wrong: y 2e-1' },
    null,
  ])
})

test('the step uses Large if it fits in memory, and images use Medium by default', () => {
  expect(chooseStep({ memoryMib: 46_068 }).variant).toBe('large')
  expect(chooseStep({ memoryMib: 6_144 })).toMatchObject({
    variant: 'medium',
    reason: 'Large needs 8 GiB of GPU memory',
  })
  expect(chooseImages(undefined)).toMatchObject({ variant: 'medium', reason: expect.stringContaining('46 GB') })
  expect(chooseImages('large')).toEqual({ variant: 'large', reason: 'as requested' })
})

test.each([
  ['https://github.com/someone/octet.git', 'someone/octet'],
  ['https://github.com/someone/octet', 'someone/octet'],
  ['https://user:secret@github.com/someone/octet.git', 'someone/octet'],
  ['git@github.com:someone/octet.git', 'someone/octet'],
  ['ssh://git@github.com/someone/octet', 'someone/octet'],
])('the issue tracker of the remote %s', (remote, repository) => {
  expect(issueAddress(remote)).toBe(`https://github.com/${repository}/issues/new?template=${TEMPLATE}`)
})

test('remotes outside GitHub have no issue URL, and the template exists', () => {
  for (const remote of ['', '/srv/octet.git', 'https://github.com.example/someone/octet'])
    expect(issueAddress(remote)).toBeNull()
  expect(describeSending('/tmp/gpu-short.md', '')).toContain(`/tmp/gpu-short.md\n`)
  expect(describeSending('/tmp/gpu-short.md', '')).toContain('from which this checkout was cloned')
  expect(existsSync(path.join(import.meta.dirname, '../../../../../.github/ISSUE_TEMPLATE', TEMPLATE))).toBe(true)
})
