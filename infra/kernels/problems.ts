// The reasons to refuse a compiled kernel.
import type { Report } from './ptxas.ts'

/** Bytes that one thread of a kernel may spill (stores and loads). Too few to measure, on targets that no GPU was available for. */
const ALLOWED_SPILLS: Record<string, number> = {
  'attention/attention.cu: attendPortablyKernel for sm_100': 16,
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
