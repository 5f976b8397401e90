// The judge: a classifier of nano's objects, trained separately from nano.
import path from 'node:path'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import { NANO } from '../local/models/built-in-model.ts'
import { readVocabulary } from '../local/models/vocabulary.ts'
import type { Pixels } from '../receipts/compare-images.ts'
import type { QualityPrompt } from './prompts.ts'

export type Detection = {
  /** Number of confidently detected instances, by sprite. */
  sprites: Record<string, number>
  /** The most likely sprites, best first, at any confidence. */
  likeliest: string[]
  /** Background at the upper and the lower edge. */
  background: QualityPrompt['background']
}

export type Verdict = {
  /** Whether the main sprite is among the n most likely ones, where n is the number of sprites in the prompt. */
  sprite: boolean
  /** Whether the main sprite is confidently detected. */
  clear: boolean
  /** Whether the background is correct at both edges. */
  background: boolean
  /** Whether every sprite of the prompt is detected in the requested number. */
  count: boolean
}

export type Judge = { detect: (image: Pixels) => Promise<Detection>; release: () => Promise<void> }

const SIDE = 256
/** The largest number of one sprite in any prompt. */
const LIKELIEST = 4

/** Opens the classifier. `detect` takes images of 256 × 256 pixels. */
export async function openJudge(): Promise<Judge> {
  const vocabulary = await readVocabulary()
  const sprites = vocabulary.sprites.map(({ name }) => name)
  const session = await openSession(path.join(NANO, 'judge.onnx'), { target: 'cpu' })
  const detect = async (image: Pixels): Promise<Detection> => {
    const seen = await session.run({ image: { data: planes(image), dims: [1, 3, SIDE, SIDE] } })
    const output = (name: string) => [...(seen[name]!.data as Float32Array)]
    const likeliest = (logits: number[]) => vocabulary.backgrounds[logits.indexOf(Math.max(...logits))]!
    const scores = output('scores')
    const ranked = [...sprites.keys()].sort((a, b) => scores[b]! - scores[a]!)
    return {
      likeliest: ranked.slice(0, LIKELIEST).map((i) => sprites[i]!),
      sprites: Object.fromEntries(output('counts').flatMap((count, i) => (count > 0 ? [[sprites[i]!, count]] : []))),
      background: { top: likeliest(output('top')), bottom: likeliest(output('bottom')) },
    }
  }
  return { detect, release: () => session.release() }
}

/** Compares the detected content of an image with its prompt. */
export function judge({ sprites, background }: QualityPrompt, seen: Detection): Verdict {
  const countOf = (name: string) => seen.sprites[name] ?? 0
  return {
    sprite: seen.likeliest.slice(0, sprites.length).includes(sprites[0]!.name),
    clear: countOf(sprites[0]!.name) >= 1,
    background: seen.background.top === background.top && seen.background.bottom === background.bottom,
    count: sprites.every(({ name, count }) => countOf(name) === count),
  }
}

/** Converts interleaved 8-bit RGB to planes [3, 256, 256] of 0 to 1. */
function planes({ data, width, height }: Pixels): Float32Array {
  if (width !== SIDE || height !== SIDE) throw new Error(`the image is ${width}x${height} instead of ${SIDE}x${SIDE}`)
  const area = width * height
  return Float32Array.from({ length: 3 * area }, (_, i) => data[3 * (i % area) + Math.floor(i / area)]! / 255)
}
