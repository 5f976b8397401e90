const DOLLAR = 1_000_000

/** Micro-dollars as dollars, with at least two significant digits: "$0.0012". */
export function formatMoney(microdollars: number): string {
  const dollars = microdollars / DOLLAR
  if (dollars === 0) return '$0'
  const digits = Math.abs(dollars) >= 1 ? 2 : Math.min(6, 1 - Math.floor(Math.log10(Math.abs(dollars))))
  return `${dollars < 0 ? '−' : ''}$${Math.abs(dollars).toFixed(digits)}`
}

/** Seconds with one decimal below ten: "0.9 s", "42 s", "3 min". */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  return seconds < 100 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`
}

const dates = new Intl.DateTimeFormat('en', { dateStyle: 'medium' })
const times = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'short' })
/** A date of Unix seconds: "Nov 29, 2026". */
export const formatDate = (seconds: number) => dates.format(seconds * 1000)
export const formatTime = (value: string | number) => times.format(new Date(value))

export const formatSize = (size: string) => size.replace('x', ' × ')
export const pluralize = (count: number, noun: string) =>
  `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`

const EXTENSIONS: Record<string, string> = { 'image/png': 'png', 'image/jpeg': 'jpg', 'image/webp': 'webp' }
export const createFileName = (seed: number | string, contentType: string) =>
  `octet-${seed}.${EXTENSIONS[contentType] ?? 'png'}`
