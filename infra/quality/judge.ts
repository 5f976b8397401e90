// What a picture shows, in the eyes of the classifier that was trained beside nano.
import path from 'node:path'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import { NANO } from '../local/built-in-model.ts'
import { readVocabulary } from '../local/vocabulary.ts'
import type { Pixels } from '../receipts/compare-images.ts'
import type { QualityPrompt } from './prompts.ts'

export type Sight = {
  /** Sprite → how many of it are seen clearly. */
  sprites: Record<string, number>
  /** What the picture resembles most, best first, however clearly. */
  likeliest: string[]
  /** At the upper and the lower edge. */
  background: QualityPrompt['background']
}

export type Verdict = {
  /** Among as many of the likeliest sprites as the prompt names is the main one. */
  sprite: boolean
  /** The main sprite is seen clearly. */
  clear: boolean
  /** The background is right at both edges. */
  background: boolean
  /** Every sprite that was asked for is there as often as asked. */
  count: boolean
}

export type Judge = { look: (image: Pixels) => Promise<Sight>; release: () => Promise<void> }

const SIDE = 256
/** No prompt names more. */
const LIKELIEST = 4

/** Opens the classifier. `look` takes pictures of 256 × 256 pixels. */
export async function openJudge(): Promise<Judge> {
  const vocabulary = await readVocabulary()
  const sprites = vocabulary.sprites.map(({ name }) => name)
  const session = await openSession(path.join(NANO, 'judge.onnx'), { target: 'cpu' })
  const look = async (image: Pixels): Promise<Sight> => {
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
  return { look, release: () => session.release() }
}

/** Whether a picture shows what its prompt asked for. */
export function judge({ sprites, background }: QualityPrompt, seen: Sight): Verdict {
  const countOf = (name: string) => seen.sprites[name] ?? 0
  return {
    sprite: seen.likeliest.slice(0, sprites.length).includes(sprites[0]!.name),
    clear: countOf(sprites[0]!.name) >= 1,
    background: seen.background.top === background.top && seen.background.bottom === background.bottom,
    count: sprites.every(({ name, count }) => countOf(name) === count),
  }
}

/** Interleaved 8-bit RGB as planes [3, 256, 256] of 0 to 1. */
function planes({ data, width, height }: Pixels): Float32Array {
  if (width !== SIDE || height !== SIDE) throw new Error(`the picture is ${width}x${height}; ${SIDE}x${SIDE} is judged`)
  const area = width * height
  return Float32Array.from({ length: 3 * area }, (_, i) => data[3 * (i % area) + Math.floor(i / area)]! / 255)
}
