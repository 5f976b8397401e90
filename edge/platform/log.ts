import { escapeText } from '#contract'

type Fields = Record<string, unknown>

const describeError = (value: unknown) =>
  value instanceof Error ? { message: value.message, stack: value.stack } : value

/** One line of JSON on the worker's log, escaped for terminals. Callers must not pass prompts, keys or images. */
export function log(level: 'info' | 'warn' | 'error', message: string, fields: Fields = {}) {
  const entries = Object.entries(fields).map(([name, value]) => [name, describeError(value)])
  console[level](escapeText(JSON.stringify({ level, message, ...Object.fromEntries(entries) })))
}
