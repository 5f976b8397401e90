// Generates the images of one configuration in a separate process and keeps them on disk, so that a run can be interrupted and resumed.
import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import fs from 'node:fs/promises'
import path from 'node:path'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { endWithThis } from '../command/child-process.ts'
import { type BuiltInModel, prepareBuiltInPackage, type Tier } from '../local/models/built-in-model.ts'
import type { QualityPrompt } from './prompts.ts'

export type Configuration = { name: string; model: BuiltInModel; tier: Tier }
/** Measurements of one image. Its file is written after the image and thus marks it as complete. */
export type Run = { seconds: number; peakBytes: number }

export const PROMPTS = 'prompts.json'

/** The run of image `i` in a directory; null if the image is absent or incomplete. */
export async function readRun(directory: string, i: number): Promise<Run | null> {
  try {
    return JSON.parse(await fs.readFile(path.join(directory, `${i}.json`), 'utf8'))
  } catch {
    return null
  }
}

/** The directory of a configuration's images, which depends on the package and the prompts. */
async function openImagesDirectory(
  out: string,
  { name }: Configuration,
  directory: string,
  set: readonly QualityPrompt[],
) {
  const { digest } = await openPackage(directory)
  const state = createHash('sha256').update(digest).update(JSON.stringify(set)).digest('hex').slice(0, 12)
  const place = path.join(out, 'images', `${name}-${state}`)
  await fs.mkdir(place, { recursive: true })
  return place
}

/**
 * Generates missing images of the first `count` prompts, calls `onImage` for each complete one, and returns the directory of `0.png`,
 * `1.png` and so on, with their runs.
 */
export async function makeImages(
  out: string,
  configuration: Configuration,
  set: readonly QualityPrompt[],
  count: number,
  onImage: () => void,
): Promise<{ directory: string; runs: Run[] }> {
  const directory = await prepareBuiltInPackage(configuration.model, configuration.tier)
  const place = await openImagesDirectory(out, configuration, directory, set)
  await fs.writeFile(path.join(place, PROMPTS), JSON.stringify(set.slice(0, count)))
  const child = endWithThis(fork(path.join(import.meta.dirname, 'make-images.ts'), [directory, place]))
  child.on('message', onImage)
  const [code, signal] = await once(child, 'exit')
  if (code !== 0) throw new Error(`the process for ${configuration.name} ended with ${code ?? signal}`)
  const runs = await Promise.all(Array.from({ length: count }, (_, i) => readRun(place, i)))
  return { directory: place, runs: runs.filter((run) => run !== null) }
}
