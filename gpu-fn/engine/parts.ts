// The parts of a start and their times, in every thread of the process.

/** Parts overlap. `start` and `end`: Unix milliseconds, with fractions. */
export type Part = { part: string; start: number; end: number }

/** A part that ends now, after `seconds`. */
export function endPart(part: string, seconds: number): Part {
  const end = performance.timeOrigin + performance.now()
  return { part, start: end - 1000 * seconds, end }
}

/** Adds the part of an action to `parts`, also if the action fails. */
export async function timePart<T>(parts: Part[], part: string, action: () => Promise<T>): Promise<T> {
  const start = performance.now()
  try {
    return await action()
  } finally {
    parts.push(endPart(part, (performance.now() - start) / 1000))
  }
}
