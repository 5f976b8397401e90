// The time that an idle GPU is worth keeping, from the gaps between recent jobs. Pure.

/** The possible windows in seconds, from Modal's shortest idle time. They are also the upper limits of the classes of gaps. */
export const WINDOWS = [2, 5, 15, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600] as const
/** The weight of earlier gaps falls by this factor with each new one: the last fifty decide. */
const FADE = 0.98
/** With fewer recorded gaps, the default window applies. */
const FEWEST = 8

/** For each class, the weighted number of gaps and the weighted sum of their seconds. The last class has the gaps above all windows. */
export type Gaps = { counts: number[]; sums: number[]; seen: number }
export const NO_GAPS: Gaps = { counts: WINDOWS.map(() => 0).concat(0), sums: WINDOWS.map(() => 0).concat(0), seen: 0 }

/** Adds a gap, the seconds between the end of a job and the next job. */
export function recordGap({ counts, sums, seen }: Gaps, seconds: number): Gaps {
  const found = WINDOWS.findIndex((limit) => seconds <= limit)
  const own = found < 0 ? WINDOWS.length : found
  const fade = (values: number[], add: number) => values.map((value, i) => value * FADE + (i === own ? add : 0))
  return { counts: fade(counts, 1), sums: fade(sums, Math.min(seconds, WINDOWS.at(-1)!)), seen: seen + 1 }
}

/**
 * The window with the least expected cost per gap: the idle seconds within the window, plus `coldSeconds` for a gap that exceeds it.
 * `coldSeconds` is the billed duration of a start plus the value of the caller's wait. `otherwise` applies until enough gaps are recorded.
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
