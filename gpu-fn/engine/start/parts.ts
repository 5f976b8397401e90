// The parts of a start and their times, comparable between the threads of a process.

/** `start` and `end`: Unix time in milliseconds. Parts overlap. */
export type Part = { part: string; start: number; end: number }

/** A part of `seconds` that ends now. */
export function endPart(part: string, seconds: number): Part {
  const end = performance.timeOrigin + performance.now()
  return { part, start: end - 1000 * seconds, end }
}

/** Adds an action to `parts` when it ends, even if it fails. */
export async function timePart<T>(parts: Part[], part: string, action: () => Promise<T>): Promise<T> {
  const start = performance.now()
  try {
    return await action()
  } finally {
    parts.push(endPart(part, (performance.now() - start) / 1000))
  }
}
