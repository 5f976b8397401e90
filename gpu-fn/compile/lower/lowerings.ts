// The lowering of each target.
import type { Target } from '../../manifest.ts'
import type { Lowerings } from '../graph/model.ts'
import type { Lowering } from '../graph/scope.ts'
import { cpu } from './cpu.ts'
import { cuda } from './cuda.ts'
import { cudaFp8 } from './kernels.ts'

const LOWERINGS: Record<Target, Lowering> = { cpu, cuda, 'cuda-fp8': cudaFp8 }

/** The lowerings of a package. `lowering` replaces that of the target; for tests. */
export const chooseLowerings = (target: Target, lowering: Lowering = LOWERINGS[target]): Lowerings => ({
  lowering,
  withoutKernels: target === 'cuda-fp8' ? cuda : null,
})
