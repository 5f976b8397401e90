// Seeded damage to safetensors files.

export type Random = { below: (bound: number) => number; pick: <T>(values: readonly T[]) => T }

/** Mulberry32; equal seeds cause equal damage. */
export function createSeededRandom(seed: number): Random {
  let state = seed >>> 0
  const below = (bound: number) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % bound
  }
  return { below, pick: (values) => values[below(values.length)]! }
}

export type Header = Record<string, Record<string, unknown>>

const NUMBERS = [
  '-1',
  '-0',
  '0',
  '1',
  '0.5',
  '1e308',
  '1e999',
  '4294967296',
  '9007199254740991',
  '9007199254740993',
  '18446744073709551616',
  '1e-400',
]
const VALUES = [
  ...NUMBERS,
  'null',
  'true',
  '""',
  '"F32"',
  '"F8_E5M2"',
  '"toString"',
  '"\\ud800"',
  '[]',
  '{}',
  '[[[[]]]]',
  '{"toString":1}',
  '[1,2,3,4,5,6,7,8,9]',
  '[0,4]',
]
const NAMES = [
  '__proto__',
  '__metadata__',
  'constructor',
  '',
  ' ',
  '\u0000',
  '💥',
  'e\u0301',
  '../../etc/passwd',
  'scaled_fp8',
  'x'.repeat(600),
  'decoder.a',
  'transformer_blocks.99999999999999999999.attn.to_q.weight',
]
const TOKENS = [
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '"',
  '\\',
  '"a":',
  ' ',
  '\n',
  '\u0000',
  '\ufeff',
  '{"a":'.repeat(50),
  '['.repeat(5000),
  ',0'.repeat(2000),
  '\\u0000',
  '💥',
]

/** Damages a file of `header` and zeros in one of several ways: wrong values in the JSON, damaged JSON text, a wrong length, flipped bits, truncation. */
export function mutate(
  random: Random,
  header: Header,
  pack: (json: string, length?: bigint) => Uint8Array,
): Uint8Array {
  const json = JSON.stringify(header)
  switch (random.below(6)) {
    case 0:
      return pack(corruptJson(random, header))
    case 1:
      return pack(corruptJson(random, JSON.parse(corruptNumbers(random, json)) as Header))
    case 2:
      return pack(spliceText(random, json))
    case 3:
      return pack(json, corruptLength(random, json.length))
    case 4:
      return flipBits(random, pack(json), json.length + 8)
    default:
      return cut(random, pack(json))
  }
}

/** Damages a JSON file: another key or value at any depth, a duplicate or missing entry, false text, flipped bits, truncation. */
export function mutateJson(random: Random, content: Record<string, unknown>): Uint8Array {
  const json = JSON.stringify(content)
  const bytes = (text: string) => Buffer.from(text)
  switch (random.below(5)) {
    case 0:
    case 1:
      return bytes(corruptEntry(random, content))
    case 2:
      return bytes(spliceText(random, json))
    case 3:
      return flipBits(random, bytes(json), json.length)
    default:
      return cut(random, bytes(json))
  }
}

function corruptEntry(random: Random, content: Record<string, unknown>): string {
  const entries = Object.entries(content).map(([key, value]): [string, string] => [
    JSON.stringify(key),
    JSON.stringify(value),
  ])
  const index = random.below(entries.length)
  const [key, value] = entries[index]!
  const inside = Object.entries(content)[index]![1]
  const deeper =
    typeof inside === 'object' && inside !== null && !Array.isArray(inside) && Object.keys(inside).length > 0
      ? corruptEntry(random, inside as Record<string, unknown>)
      : random.pick(VALUES)
  const lies: [string, string][] = [
    [key, deeper],
    [key, random.pick(VALUES)],
    [JSON.stringify(random.pick(NAMES)), value],
    entries[random.below(entries.length)]!,
  ]
  entries[index] = random.pick(lies)
  if (random.below(8) === 0) entries.splice(random.below(entries.length), 1)
  return `{${entries.map(([name, text]) => `${name}:${text}`).join()}}`
}

/** One field of one entry becomes something else, or an entry is renamed, doubled or lost. */
function corruptJson(random: Random, header: Header): string {
  const entries = Object.entries(header).map(
    ([name, entry]) => [JSON.stringify(name), JSON.stringify(entry)] as [string, string],
  )
  const index = random.below(entries.length)
  const [name, entry] = entries[index]!
  const field = random.pick(['dtype', 'shape', 'data_offsets'])
  const value = random.pick(VALUES)
  const replaced = entry.replace(
    new RegExp(`("${field}":)(\\[[^\\]]*\\]|"[^"]*")`),
    (_, key: string) => `${key}${value}`,
  )
  const lies: [string, string][] = [
    [name, replaced],
    [name, entry.replace(/\d+/, random.pick(NUMBERS))],
    [name, value],
    [name, entry.replace(/,"data_offsets":\[[^\]]*\]/, '')],
    [JSON.stringify(random.pick(NAMES)), entry],
    entries[random.below(entries.length)]!,
  ]
  entries[index] = random.pick(lies)
  if (random.below(8) === 0) entries.splice(random.below(entries.length), 1)
  return `{${entries.map(([key, content]) => `${key}:${content}`).join()}}`
}

/** Changes one number slightly, so that offsets overlap. */
function corruptNumbers(random: Random, json: string): string {
  const numbers = [...json.matchAll(/(?<=[[,])\d+(?=[\],])/g)]
  const match = random.pick(numbers)
  const moved = Math.max(0, Number(match[0]) + random.below(17) - 8)
  return `${json.slice(0, match.index)}${moved}${json.slice(match.index + match[0].length)}`
}

function spliceText(random: Random, json: string): string {
  const at = random.below(json.length)
  return json.slice(0, at) + random.pick(TOKENS) + json.slice(at + random.below(6))
}

function corruptLength(random: Random, length: number): bigint {
  const near = BigInt(Math.max(0, length + random.below(33) - 16))
  return random.pick([
    near,
    0n,
    1n,
    BigInt(random.below(2 ** 31)),
    100_000_000n,
    100_000_001n,
    2n ** 53n,
    2n ** 63n,
    2n ** 64n - 1n,
  ])
}

function flipBits(random: Random, file: Uint8Array, within: number): Uint8Array {
  const damaged = Uint8Array.from(file)
  for (let flips = 1 + random.below(4); flips > 0; flips--) damaged[random.below(within)]! ^= 1 << random.below(8)
  return damaged
}

function cut(random: Random, file: Uint8Array): Uint8Array {
  if (random.below(4) === 0) return Buffer.concat([file, new Uint8Array(1 + random.below(64))])
  return file.subarray(0, random.below(file.length))
}

/** Damages any file: flipped bits, or another length. */
export function mutateBytes(random: Random, file: Uint8Array): Uint8Array {
  return random.below(3) === 0 ? cut(random, file) : flipBits(random, file, file.length)
}
