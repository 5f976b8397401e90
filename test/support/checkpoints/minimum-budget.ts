import { planOf } from '../../../gpu-fn/engine/package/graphs.ts'
import { BudgetError } from '../../../gpu-fn/engine/package/memory-plan.ts'
import type { ControlnetPackage, Package } from '../../../gpu-fn/manifest.ts'
import type { Size } from '../../../gpu-fn/pipeline/pipeline.ts'

/** Minimum memory budget in bytes for an image size (default: the package's) and a ControlNet. */
export function findMinimumBudget(pkg: Package, size?: Size, controlnet: ControlnetPackage | null = null): number {
  const suffices = (budget: number) => {
    try {
      planOf(pkg, { budget }, size, controlnet)
      return true
    } catch (error) {
      if (error instanceof BudgetError) return false
      throw error
    }
  }
  let [min, max] = [1, planOf(pkg, { budget: undefined }, size, controlnet).peak]
  while (min < max) {
    const middle = Math.floor((min + max) / 2)
    if (suffices(middle)) max = middle
    else min = middle + 1
  }
  return min
}
