// The layers of each target.
import type { Target } from '../../manifest.ts'
import type { GraphSettings } from '../graph/build-graph.ts'
import type { BuildOptions } from '../graph/model.ts'
import type { Precision } from '../graph/precision.ts'
import type { Lowering } from '../graph/scope.ts'
import { cpu } from './cpu.ts'
import { cuda } from './cuda.ts'
import { cudaFp8 } from './kernels.ts'

const LOWERINGS: Record<Target, Lowering> = { cpu, cuda, 'cuda-fp8': cudaFp8 }
/** One product is 1 to 3 % faster on the H200 and makes no difference on the CPU: `npm run bench -- qkv --target cuda|cpu`. */
const FUSE_QKV: Record<Target, boolean> = { cpu: false, cuda: true, 'cuda-fp8': true }

/** What the graphs of a package are built with. */
export function graphSettings(
  { target, lowering = LOWERINGS[target], scaleBlock, fuseQkv, probes = false }: BuildOptions,
  precision: Precision,
): GraphSettings {
  return { lowering, precision, scaleBlock: scaleBlock ?? null, fuseQkv: fuseQkv ?? FUSE_QKV[target], probes }
}
