// JSON from untrusted files: limits its size before parsing, and rejects duplicate keys, which JSON.parse accepts.
import { CheckpointError, quote } from '../error.ts'

type JsonLimits = { depth: number; commas: number }

/** Parses a JSON object of UTF-8 `bytes`. Throws CheckpointError for invalid UTF-8, duplicate keys, and more values or deeper nesting than `limits`. */
export function parseObject(file: string, bytes: Uint8Array, limits: JsonLimits): Record<string, unknown> {
  const text = decodeUtf8(file, bytes)
  if (!text.startsWith('{')) throw new CheckpointError(file, 'the JSON must begin with "{"')
  const keys = countKeys(file, text, limits)
  let parsed: Record<string, unknown>
  try {
    // Valid JSON that begins with "{" is an object.
    parsed = JSON.parse(text) as Record<string, unknown>
  } catch (cause) {
    throw new CheckpointError(file, 'the JSON is malformed', { cause })
  }
  // JSON.parse keeps the last of several equal keys.
  if (countDistinctKeys(file, parsed) !== keys) throw new CheckpointError(file, 'the JSON has a duplicate key')
  return parsed
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function decodeUtf8(file: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new CheckpointError(file, 'the JSON is not UTF-8', { cause })
  }
}

/** Keys in the text, which need not be valid JSON: JSON.parse decides that. Throws CheckpointError at the limits. */
function countKeys(file: string, text: string, limits: JsonLimits): number {
  let [keys, commas, depth, inString] = [0, 0, 0, false]
  for (let i = 0; i < text.length; i++) {
    const character = text[i]
    if (character === '"') inString = !inString
    else if (inString) i += character === '\\' ? 1 : 0
    else if (character === ':') keys++
    else if (character === '}' || character === ']') depth--
    else if (character === ',' && ++commas > limits.commas)
      throw new CheckpointError(file, `the JSON has more than ${limits.commas} values`)
    else if ((character === '{' || character === '[') && ++depth > limits.depth)
      throw new CheckpointError(file, `the JSON is deeper than ${limits.depth} levels`)
  }
  return keys
}

/** Keys of all objects in a parsed value. */
function countDistinctKeys(file: string, value: unknown): number {
  if (Array.isArray(value)) return value.reduce((sum: number, item) => sum + countDistinctKeys(file, item), 0)
  if (!isRecord(value)) return 0
  const entries = Object.entries(value)
  const invalid = entries.find(([key]) => !key.isWellFormed())
  if (invalid) throw new CheckpointError(file, `the key ${quote(invalid[0])} is not Unicode`)
  return entries.reduce((sum, [, item]) => sum + countDistinctKeys(file, item), entries.length)
}
