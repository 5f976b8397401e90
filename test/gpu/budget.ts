// Memory budgets under which most weights are offloaded.
import { planOf } from '../../gpu-fn/engine/package/graphs.ts'
import { BudgetError } from '../../gpu-fn/engine/package/memory-plan.ts'
import type { Package } from '../../gpu-fn/manifest.ts'
import type { Size } from '../../gpu-fn/pipeline/pipeline.ts'

/** The smallest feasible memory budget of a package for images of a size, in bytes. */
export function findSmallestBudget(pkg: Package, size: Size): number {
  const weights = Object.values(pkg.manifest.files).reduce((sum, { bytes }) => sum + bytes, 0)
  const { peak } = planOf(pkg, { budget: undefined }, size)
  for (const share of [0.8, 0.6, 0.4, 0.2]) {
    try {
      return planOf(pkg, { budget: peak - share * weights }, size).budget!
    } catch (error) {
      if (!(error instanceof BudgetError)) throw error
    }
  }
  return peak - 1
}
