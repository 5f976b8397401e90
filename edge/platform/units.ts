// Units. Money is whole micro-dollars. Times are Unix milliseconds inside the worker, and Unix seconds in the API.

/** Micro-dollars in a dollar. */
export const MICRODOLLARS = 1_000_000
export const DAY_MS = 24 * 3600_000

export const formatDollars = (microdollars: number) => `$${(microdollars / MICRODOLLARS).toFixed(6)}`

/** Converts a dollar limit to whole micro-dollars, rounded down. */
export function convertToMicrodollars(amount: number): number {
  const nearest = Math.round(amount * MICRODOLLARS)
  // Division is correctly rounded, so this comparison is exact, whereas multiplication may be off by one: $0.29 is 290000.
  return nearest / MICRODOLLARS > amount ? nearest - 1 : nearest
}

/** Converts Unix milliseconds to whole Unix seconds; null stays null. */
export const toUnixSeconds = <T extends number | null>(milliseconds: T) =>
  (milliseconds === null ? null : Math.floor(milliseconds / 1000)) as T
