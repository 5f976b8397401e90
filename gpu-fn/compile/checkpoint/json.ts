// JSON from untrusted files: limits its size before parsing, and rejects duplicate keys, which JSON.parse accepts.
import { CheckpointError, quote } from './error.ts'

export type JsonLimits = { depth: number; commas: number }

/** Parses a JSON object of UTF-8 `bytes`. Throws CheckpointError for invalid UTF-8, duplicate keys, and more values or deeper nesting than `limits`. */
export function parseObject(file: string, bytes: Uint8Array, limits: JsonLimits): Record<string, unknown> {
  const text = decodeUtf8(file, bytes)
  if (!text.startsWith('{')) throw new CheckpointError(file, 'the JSON must begin with "{"')
  scan(file, text, limits)
  try {
    // Text that begins with "{" parses to an object or not at all.
    return JSON.parse(text) as Record<string, unknown>
  } catch (cause) {
    throw new CheckpointError(file, 'the JSON is malformed', { cause })
  }
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

/** Enforces the limits and finds duplicate keys. The text may be invalid: JSON.parse checks it afterwards. */
function scan(file: string, text: string, limits: JsonLimits): void {
  const open: Set<string>[] = []
  let commas = 0
  let literal = ''
  for (let i = 0; i < text.length; i++) {
    switch (text[i]) {
      case '"': {
        const end = endOfString(file, text, i)
        literal = text.slice(i, end)
        i = end - 1
        break
      }
      case '{':
      case '[':
        if (open.push(new Set()) > limits.depth)
          throw new CheckpointError(file, `the JSON is deeper than ${limits.depth} levels`)
        break
      case '}':
      case ']':
        open.pop()
        break
      case ',':
        if (++commas > limits.commas) throw new CheckpointError(file, `the JSON has more than ${limits.commas} values`)
        break
      case ':':
        addKey(file, open.at(-1), literal)
    }
  }
}

function endOfString(file: string, text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const character = text[i]
    if (character === '\\') i++
    else if (character === '"') return i + 1
  }
  throw new CheckpointError(file, 'the JSON is malformed: a string does not end')
}

function addKey(file: string, keys: Set<string> | undefined, literal: string): void {
  const key = unescapeKey(file, literal)
  if (!key.isWellFormed()) throw new CheckpointError(file, `the key ${quote(key)} is not Unicode`)
  if (keys?.has(key)) throw new CheckpointError(file, `the key ${quote(key)} is given twice`)
  keys?.add(key)
}

/** Keys with different escapes of the same characters are equal. */
function unescapeKey(file: string, literal: string): string {
  if (!literal.includes('\\')) return literal.slice(1, -1)
  try {
    return JSON.parse(literal) as string
  } catch (cause) {
    throw new CheckpointError(file, 'the JSON is malformed', { cause })
  }
}
