import { expect, test } from 'vitest'
import type { Manifest } from '../../gpu-fn/compile/manifest.ts'
import { footprintOf } from '../../gpu-fn/pipeline.ts'

const GIB = 2 ** 30

test.each<[Manifest['target'], Manifest['tier'], fileBytes: number, fold: boolean, bytes: number]>([
  ['cpu', 'fp8', GIB, true, 4 * GIB],
  ['cpu', 'fp8-lite', GIB, true, 4 * GIB],
  ['cpu', 'fp8', GIB + 2, false, 2 * GIB + 4],
  ['cpu', 'fp16', GIB, true, 2 * GIB],
  ['cpu', 'fp16', GIB + 2, false, 2 * GIB + 4],
  ['cpu', 'fp32', GIB, true, GIB],
  ['cuda', 'fp8', GIB, false, GIB],
])(
  'a package for %s in %s with files of %d bytes: folded %s, %d bytes in memory',
  (target, tier, size, fold, bytes) => {
    const half = { bytes: size / 2, sha256: '' }
    const manifest = { target, tier, files: { a: half, b: half } } as unknown as Manifest
    expect(footprintOf({ manifest })).toMatchObject({ fold, bytes })
  },
)
