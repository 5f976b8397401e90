// The time that an idle GPU is worth keeping, from the gaps between recent jobs. Pure.

/** Upper limits of the classes of gaps in seconds, and the windows to choose from. */
export const WINDOWS = [15, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600] as const
/** The weight of earlier gaps falls by this factor with each new one: the last fifty decide. */
const FADE = 0.98
/** Before so many gaps, the default window applies. */
const FEWEST = 8

/** Weighted numbers of gaps by class, and the sum of their seconds within the class; the last class has longer gaps. */
export type Gaps = { counts: number[]; sums: number[]; seen: number }
export const NO_GAPS: Gaps = { counts: WINDOWS.map(() => 0).concat(0), sums: WINDOWS.map(() => 0).concat(0), seen: 0 }

/** The record after a gap of so many seconds between the end of a job and the next one. */
export function recordGap({ counts, sums, seen }: Gaps, seconds: number): Gaps {
  const found = WINDOWS.findIndex((limit) => seconds <= limit)
  const own = found < 0 ? WINDOWS.length : found
  const fade = (values: number[], add: number) => values.map((value, i) => value * FADE + (i === own ? add : 0))
  return { counts: fade(counts, 1), sums: fade(sums, Math.min(seconds, WINDOWS.at(-1)!)), seen: seen + 1 }
}

/**
 * The window with the least expected cost per gap: idle seconds up to the window, and `coldSeconds` for a gap that exceeds it. `coldSeconds`
 * is the duration of a start, which is billed, and what the caller's wait is worth. `otherwise` applies until gaps were seen.
 */
export function chooseWindow(gaps: Gaps, coldSeconds: number, otherwise: number): number {
  if (gaps.seen < FEWEST) return otherwise
  const costs = WINDOWS.map((window, k) => {
    const within = gaps.sums.slice(0, k + 1).reduce((sum, seconds) => sum + seconds, 0)
    const beyond = gaps.counts.slice(k + 1).reduce((sum, count) => sum + count, 0)
    return within + beyond * (window + coldSeconds)
  })
  return WINDOWS[costs.indexOf(Math.min(...costs))]!
}
