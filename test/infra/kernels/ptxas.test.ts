import { describe, expect, test } from 'vitest'
import { findProblems } from '../../../infra/kernels/problems.ts'
import { type Report, readReport } from '../../../infra/kernels/ptxas.ts'
import { replaceTable, tableOf } from '../../../infra/kernels/table.ts'

// Messages of ptxas 13.0.88 on infra/kernels/planted and on group-norm.cu.
const SPILL = `ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spill' for 'sm_90a'
ptxas info    : Function properties for spill
    288 bytes stack frame, 284 bytes spill stores, 284 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 288 bytes cumulative stack size
ptxas info    : Compile time = 90.039 ms
`
const SERIALIZED = `ptxas info    : (C7519) warpgroup.arrive is injected in around line 42 by compiler to allow use of registers in GMMA in function 'serialized'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function 'serialized'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'serialized' for 'sm_90a'
ptxas info    : Function properties for serialized
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers
ptxas info    : Compile time = 41.967 ms
`
const apply = (instance: string, registers: number, spill: number) =>
  `ptxas info    : Compiling entry function 'void octet::(anonymous namespace)::apply<${instance}>(octet::(anonymous namespace)::DeferredSum, uint4*)' for 'sm_120'
ptxas info    : Function properties for void octet::(anonymous namespace)::apply<${instance}>(octet::(anonymous namespace)::DeferredSum, uint4*)
    ${spill} bytes stack frame, ${spill} bytes spill stores, ${spill} bytes spill loads
ptxas info    : Used ${registers} registers, used 1 barriers, 4096 bytes smem
ptxas info    : Compile time = 485.970 ms
`

const reportOf = (text: string, source = 'group-norm/group-norm.cu', target: Report['target'] = 'sm_120'): Report => ({
  ...{ source, target },
  ...readReport(text),
})

test('every kernel of a source file is read, under its name without namespaces and parameters', () => {
  expect(reportOf(apply('false', 56, 0) + apply('true', 58, 8)).kernels).toEqual([
    { name: 'apply<false>', registers: 56, sharedBytes: 4096, spilledBytes: 0 },
    { name: 'apply<true>', registers: 58, sharedBytes: 4096, spilledBytes: 16 },
  ])
  expect(readReport('')).toEqual({ kernels: [], serialized: [] })
})

test('missing figures are an error, not zero', () => {
  expect(() => readReport(SPILL.replace('spill loads', 'reloads'))).toThrow('spill has no spilledBytes')
  expect(() => readReport(SPILL.replace('registers', 'regs'))).toThrow('spill has no registers')
  expect(() => readReport(SPILL.replace('entry function', 'kernel'))).toThrow('unknown format')
})

describe('the problems include', () => {
  test('a spill, unless it is allowed for this kernel, target and size', () => {
    expect(findProblems(reportOf(SPILL))).toEqual([
      'group-norm/group-norm.cu: spill spills 568 bytes for sm_120; allowed: 0',
    ])
    expect(findProblems(reportOf(apply('false', 255, 8)))).toEqual([])
    expect(findProblems(reportOf(apply('false', 255, 12)))).toHaveLength(1)
    expect(findProblems(reportOf(apply('true', 255, 8)))).toHaveLength(1)
    expect(findProblems(reportOf(apply('false', 255, 8), 'group-norm/group-norm.cu', 'sm_89'))).toHaveLength(1)
  })

  test('a serialized matrix instruction, and a change of its pipeline', () => {
    const problems = findProblems(reportOf(SERIALIZED))
    expect(problems.map((problem) => /\(C\d+\)/.exec(problem)?.[0])).toEqual(['(C7519)', '(C7511)'])
  })
})

test('the table has a row per kernel with the maximum of its instances, and replaces the one in a document', () => {
  const table = tableOf([reportOf(apply('false', 56, 8) + apply('true', 58, 0)), reportOf(SPILL, 'a/b.cu', 'sm_90a')])
  expect(table.split('\n').slice(2)).toEqual([
    '| b.cu | spill | 1 | 0 |  | 64, spills 568 bytes |  |  |',
    '| group-norm.cu | apply | 2 | 4,096 |  |  |  | 58, spills 16 bytes |',
  ])
  const page = 'a\n<!-- kernel-table -->\nold\n<!-- end of kernel-table -->\nb $1\n'
  expect(replaceTable(page, '$& |')).toBe('a\n<!-- kernel-table -->\n\n$& |\n\n<!-- end of kernel-table -->\nb $1\n')
  expect(() => replaceTable('', table)).toThrow('kernel-table')
})
