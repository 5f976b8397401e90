// The images of one configuration on disk, made by a process of its own and kept, so that a run can be stopped and go on.
import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import fs from 'node:fs/promises'
import path from 'node:path'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { type BuiltInModel, builtInPackage, type Tier } from '../local/built-in-model.ts'
import type { QualityPrompt } from './prompts.ts'

export type Configuration = { name: string; model: BuiltInModel; tier: Tier }
/** How an image was made; it lies beside the image, and says that the image is whole. */
export type Run = { seconds: number; peakBytes: number }

export const PROMPTS = 'prompts.json'

/** The run of image `i` of a directory; null when it was not made, or not to its end. */
export async function readRun(directory: string, i: number): Promise<Run | null> {
  try {
    return JSON.parse(await fs.readFile(path.join(directory, `${i}.json`), 'utf8'))
  } catch {
    return null
  }
}

/** Where the images of a configuration lie: another package or another set of prompts has another place. */
async function placeOf(out: string, { name }: Configuration, directory: string, set: readonly QualityPrompt[]) {
  const { digest } = await openPackage(directory)
  const state = createHash('sha256').update(digest).update(JSON.stringify(set)).digest('hex').slice(0, 12)
  const place = path.join(out, 'images', `${name}-${state}`)
  await fs.mkdir(place, { recursive: true })
  return place
}

/**
 * Makes those images of the first `count` prompts of a set that are not there yet, calls `onImage` when each is there, and returns the
 * directory of `0.png`, `1.png` … with their runs.
 */
export async function makeImages(
  out: string,
  configuration: Configuration,
  set: readonly QualityPrompt[],
  count: number,
  onImage: () => void,
): Promise<{ directory: string; runs: Run[] }> {
  const directory = await builtInPackage(configuration.model, configuration.tier)
  const place = await placeOf(out, configuration, directory, set)
  await fs.writeFile(path.join(place, PROMPTS), JSON.stringify(set.slice(0, count)))
  const child = fork(path.join(import.meta.dirname, 'make-images.ts'), [directory, place])
  child.on('message', onImage)
  const [code, signal] = await once(child, 'exit')
  if (code !== 0) throw new Error(`making the images of ${configuration.name} ended with ${code ?? signal}`)
  const runs = await Promise.all(Array.from({ length: count }, (_, i) => readRun(place, i)))
  return { directory: place, runs: runs.filter((run) => run !== null) }
}
