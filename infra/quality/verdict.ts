// Comparison of an image's detected contents with the expected contents of its prompt.
import type { Detection, Place } from './judge.ts'
import type { ExpectedSprite, QualityPrompt, Relation } from './prompts.ts'

/** The result of each criterion; null if the prompt does not have it. */
export type Verdict = {
  /** Whether the main sprite is among the n most likely ones, where n is the number of sprites in the prompt. */
  sprite: boolean | null
  /** Whether the main sprite is confidently detected. */
  clear: boolean | null
  /** Whether the background is correct at both edges. */
  background: boolean | null
  /** Whether every counted sprite of the prompt is detected in the requested number. */
  count: boolean | null
  /** Whether every colored sprite of the prompt has its color at its most likely place. */
  color: boolean | null
  /** Whether both sprites are detected and in the requested relation. */
  relation: boolean | null
  /** Whether the detected letters are those of the requested word. */
  word: boolean | null
}

/** Compares the detected contents of an image with its prompt. */
export function judge({ sprites, background, relation, text }: QualityPrompt, seen: Detection): Verdict {
  const countOf = (sprite: ExpectedSprite) => namesOf(sprite).reduce((sum, name) => sum + (seen.sprites[name] ?? 0), 0)
  const placeOf = (sprite: ExpectedSprite) => seen.places[bestNameOf(sprite, seen)]
  const [main, other] = sprites
  const counted = sprites.filter(({ count }) => count !== undefined)
  const colored = sprites.filter(({ color }) => color !== undefined)
  const nearest = seen.likeliest.slice(0, sprites.length)
  return {
    sprite: main ? namesOf(main).some((name) => nearest.includes(name)) : null,
    clear: main ? countOf(main) >= 1 : null,
    background: background
      ? seen.background.top === background.top && seen.background.bottom === background.bottom
      : null,
    count: counted.length > 0 ? counted.every((each) => countOf(each) === each.count) : null,
    color: colored.length > 0 ? colored.every((each) => placeOf(each)?.color === each.color) : null,
    relation:
      relation && main && other
        ? countOf(main) >= 1 && countOf(other) >= 1 && satisfiesRelation(relation, placeOf(main)!, placeOf(other)!)
        : null,
    word: text === undefined ? null : seen.word === text,
  }
}

/** Whether an image is correct: every sprite is detected, and every criterion is met. Null for prompts without expected contents. */
export function showsEverything(prompt: QualityPrompt, seen: Detection): boolean | null {
  const verdicts = Object.values(judge(prompt, seen)).filter((each) => each !== null)
  if (verdicts.length === 0) return null
  const detected = prompt.sprites.every((sprite) => namesOf(sprite).some((name) => (seen.sprites[name] ?? 0) >= 1))
  return detected && verdicts.every(Boolean)
}

const namesOf = ({ name, or = [] }: ExpectedSprite) => [name, ...or]

/** The first detected sprite among the alternatives; the first alternative if none is detected. */
const bestNameOf = (sprite: ExpectedSprite, seen: Detection) =>
  namesOf(sprite).find((name) => seen.sprites[name]) ?? sprite.name

/** Places are cells of the judge's grid. The thresholds are those of `satisfies_relation` in gpu-fn/nano/training/evaluation/sample.py. */
function satisfiesRelation(relation: Relation, a: Place, b: Place): boolean {
  const [across, down] = [b.column - a.column, b.row - a.row]
  const near = Math.max(Math.abs(across), Math.abs(down)) <= 15
  const satisfied: Record<Relation, boolean> = {
    left: across > 3,
    right: across < -3,
    above: down > 3,
    below: down < -3,
    beside: Math.abs(across) > Math.abs(down),
    on: near && down > 3,
    riding: near && down > 2,
    wearing: near && down < -2,
    behind: near && down > 0,
    front: near && down < 0,
  }
  return satisfied[relation]
}
