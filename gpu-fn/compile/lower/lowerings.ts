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

/** The settings of the graphs of a package. */
export function graphSettings(
  { target, lowering = LOWERINGS[target], probes = false }: BuildOptions,
  precision: Precision,
): GraphSettings {
  return { lowering, precision, probes }
}
