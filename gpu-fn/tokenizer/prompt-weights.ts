// Weights in prompts, as ComfyUI and Stability's reference read them: `(text)` weighs 1.1, `(text:1.3)` weighs 1.3, and `\(` is a
// parenthesis. ComfyUI comfy/sd1_clip.py `token_weights` @ a125cd8; Stability-AI/sd3.5 other_impls.py @ fbf8f48.

/** A part of a prompt, without the syntax of its weight. */
export type Segment = { text: string; weight: number }

/** Maximum magnitude of a weight. Larger ones only produce noise. */
const MAX_WEIGHT = 10
/** Maximum depth of nested parentheses. */
const DEEPEST = 32
const GROUP_WEIGHT = 1.1

/** The weights of a prompt are not usable. The message completes a sentence that begins with the field. */
export class WeightError extends RangeError {
  override name = 'WeightError' as const
}

/** The segments of a prompt in order. Throws WeightError for a weight that is not from -10 to 10, and for more than 32 nested groups. */
export function parseWeights(prompt: string): Segment[] {
  const escaped = prompt.replaceAll('\\)', '\0\x01').replaceAll('\\(', '\0\x02')
  return weigh(escaped, 1, 0).map(({ text, weight }) => ({
    text: text.replaceAll('\0\x01', ')').replaceAll('\0\x02', '('),
    weight,
  }))
}

/** Whether a prompt has the syntax `(text:number)`. Parentheses alone are also punctuation. */
export function hasWeights(prompt: string): boolean {
  for (const [, group] of prompt.matchAll(/\(([^()]*)\)/g)) {
    const colon = group!.lastIndexOf(':')
    if (colon > 0 && /^[-+]?(\d+(\.\d*)?|\.\d+)$/.test(group!.slice(colon + 1).trim())) return true
  }
  return false
}

function weigh(text: string, weight: number, depth: number): Segment[] {
  if (depth > DEEPEST) throw new WeightError(`has more than ${DEEPEST} levels of nested parentheses`)
  return splitGroups(text).flatMap((part) => {
    // As in ComfyUI, the first and the last parenthesis of a group need not match each other.
    if (part.length < 2 || !part.startsWith('(') || !part.endsWith(')')) return [{ text: part, weight }]
    const group = part.slice(1, -1)
    const colon = group.lastIndexOf(':')
    const own = colon > 0 ? parseNumber(group.slice(colon + 1)) : null
    if (own === null) return weigh(group, checkWeight(weight * GROUP_WEIGHT), depth + 1)
    return weigh(group.slice(0, colon), checkWeight(own), depth + 1)
  })
}

function checkWeight(weight: number): number {
  if (Math.abs(weight) <= MAX_WEIGHT) return weight
  const shown = Number.isFinite(weight) ? Number(weight.toPrecision(6)) : weight
  throw new WeightError(`has the weight ${shown}; weights are from ${-MAX_WEIGHT} to ${MAX_WEIGHT}`)
}

/** Splits a text at its outermost parentheses. After a closing parenthesis without an opening one, groups are text. */
function splitGroups(text: string): string[] {
  const parts: string[] = []
  let level = 0
  let start = 0
  for (let at = 0; at < text.length; at++) {
    if (text[at] === '(' && level++ === 0) {
      if (at > start) parts.push(text.slice(start, at))
      start = at
    } else if (text[at] === ')' && --level === 0) {
      parts.push(text.slice(start, at + 1))
      start = at + 1
    }
  }
  if (start < text.length) parts.push(text.slice(start))
  return parts
}

const NUMBER = /^[-+]?(\d+(_\d+)*(\.(\d+(_\d+)*)?)?|\.\d+(_\d+)*)(e[-+]?\d+(_\d+)*)?$/i
const SPECIAL = /^([-+]?)(inf|infinity|nan)$/i

/** Python's `float`; null for other text. */
function parseNumber(given: string): number | null {
  const text = given.trim()
  if (NUMBER.test(text)) return Number(text.replaceAll('_', ''))
  const [, sign, name] = SPECIAL.exec(text) ?? []
  if (name === undefined) return null
  return name.toLowerCase() === 'nan' ? Number.NaN : sign === '-' ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY
}
