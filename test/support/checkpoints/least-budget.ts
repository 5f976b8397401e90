import { planOf } from '../../../gpu-fn/engine/package/graphs.ts'
import type { Package } from '../../../gpu-fn/manifest.ts'

/** The minimum memory, in bytes, for images of the package's default size. */
export function leastBudget(pkg: Package): number {
  try {
    planOf(pkg, { budget: 1 })
  } catch (error) {
    const [, gigabytes] = /needs (\S+) GB/.exec((error as Error).message)!
    return Number(gigabytes) * 1e9 + 1e7
  }
  throw new Error('a budget of one byte was accepted')
}
