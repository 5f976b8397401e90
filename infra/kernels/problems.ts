// The reasons to refuse a compiled kernel.
import type { Report } from './ptxas.ts'

/** Bytes (stores and loads) that a thread of a kernel may spill: few, and on targets for which no GPU was available. */
const ALLOWED_SPILLS: Record<string, number> = {
  'group-norm/group-norm.cu: apply<false> for sm_120': 16,
}

/** Describes the spills and the serialized matrix instructions of a compiled source. */
export function findProblems({ source, target, kernels, serialized }: Report): string[] {
  const spills = kernels.flatMap(({ name, spilledBytes }) => {
    const allowed = ALLOWED_SPILLS[`${source}: ${name} for ${target}`] ?? 0
    return spilledBytes > allowed
      ? [`${source}: ${name} spills ${spilledBytes} bytes for ${target}; allowed: ${allowed}`]
      : []
  })
  return [...spills, ...serialized.map((message) => `${source}: matrix instructions for ${target}: ${message.trim()}`)]
}
