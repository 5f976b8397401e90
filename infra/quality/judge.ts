// The judge: a classifier of nano's objects, trained separately from nano.
import path from 'node:path'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import { NANO } from '../local/models/built-in-model.ts'
import { readVocabulary } from '../local/models/vocabulary.ts'
import type { Pixels } from '../receipts/compare-images.ts'

/** The most likely cell of a sprite on a grid of 32 × 32, and its color there; null for the sprite's own colors. */
export type Place = { row: number; column: number; color: string | null }

export type Detection = {
  /** Number of confidently detected instances, by sprite. */
  sprites: Record<string, number>
  /** The most likely sprites, best first, at any confidence. */
  likeliest: string[]
  /** Places of the detected and of the most likely sprites. */
  places: Record<string, Place>
  /** Background at the upper and the lower edge. */
  background: { top: string; bottom: string }
  /** The detected letters from left to right. */
  word: string
}

export type Judge = { detect: (image: Pixels) => Promise<Detection>; release: () => Promise<void> }

const SIDE = 256
const GRID = 32
const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ'
/** The largest number of different sprites in any prompt. */
const LIKELIEST = 4

/** Opens the classifier. `detect` takes images of 256 × 256 pixels. */
export async function openJudge(): Promise<Judge> {
  const vocabulary = await readVocabulary()
  const sprites = vocabulary.sprites.map(({ name }) => name)
  const session = await openSession(path.join(NANO, 'judge.onnx'), { target: 'cpu' })
  const detect = async (image: Pixels): Promise<Detection> => {
    const seen = await session.run({ image: { data: splitPlanes(image), dims: [1, 3, SIDE, SIDE] } })
    const output = (name: string) => Array.from(seen[name]!.data as Float32Array | BigInt64Array, Number)
    const [counts, scores] = [output('counts'), output('scores')]
    const [cells, tints] = [output('cells'), output('tints')]
    const ranked = [...sprites.keys()].sort((a, b) => scores[b]! - scores[a]!).slice(0, LIKELIEST)
    const detected = [...sprites.keys()].filter((i) => counts[i]! > 0)
    const place = (i: number): Place => ({ ...split(cells[i]!), color: vocabulary.colors[tints[i]! - 1] ?? null })
    return {
      sprites: Object.fromEntries(detected.map((i) => [sprites[i]!, counts[i]!])),
      likeliest: ranked.map((i) => sprites[i]!),
      places: Object.fromEntries([...detected, ...ranked].map((i) => [sprites[i]!, place(i)])),
      background: {
        top: vocabulary.backgrounds[largestOf(output('top'))]!,
        bottom: vocabulary.backgrounds[largestOf(output('bottom'))]!,
      },
      word: readWord(output('letters')),
    }
  }
  return { detect, release: () => session.release() }
}

const largestOf = (values: readonly number[]) => values.indexOf(Math.max(...values))
const split = (cell: number) => ({ row: Math.floor(cell / GRID), column: cell % GRID })

/** Reads the word from letter heatmaps [26, 32, 32] that are zero except at peaks. */
export function readWord(heat: readonly number[]): string {
  const found = heat.flatMap((score, i) => (score > 0 ? [{ i, column: i % GRID }] : []))
  const ordered = found.toSorted((a, b) => a.column - b.column)
  return ordered.map(({ i }) => LETTERS[Math.floor(i / GRID ** 2)]!).join('')
}

/** Converts interleaved 8-bit RGB to planes [3, 256, 256] of 0 to 1. */
function splitPlanes({ data, width, height }: Pixels): Float32Array {
  if (width !== SIDE || height !== SIDE) throw new Error(`the image is ${width}x${height} instead of ${SIDE}x${SIDE}`)
  const area = width * height
  return Float32Array.from({ length: 3 * area }, (_, i) => data[3 * (i % area) + Math.floor(i / area)]! / 255)
}
