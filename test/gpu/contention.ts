// Repeats images under background load on the same GPU, which delays work by up to several time slices. A run that does not wait for the
// copies of its inputs or weights then has different results.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { endWithThis } from '../../infra/command/child-process.ts'
import { makeScratch } from '../../infra/command/scratch.ts'
import { CHECKPOINTS } from '../../infra/local/models/built-in-model.ts'
import { render, withPipeline } from '../../infra/local/models/render.ts'
import { psnr, readPixels } from '../../infra/receipts/compare-images.ts'
import { findSmallestBudget } from './budget.ts'

const REQUEST = { prompt: 'a red heart on a blue sky', width: 256, height: 256, seed: 5 }
const LOAD_PROCESSES = 2

/** Prints the number of images under background load that differ from an image without it. Throws if there are any. */
export async function repeatUnderContention({ images }: { images: number }): Promise<void> {
  await using scratch = makeScratch('octet-contention-')
  const { directory } = scratch
  await compile({ checkpoint: [CHECKPOINTS.nano], tier: 'fp8', variant: 'nano', out: directory, target: 'cuda-fp8' })
  const [first] = await makeImages(directory, 1)
  const budget = findSmallestBudget(await openPackage(directory), REQUEST)
  const loads = await Promise.all(Array.from({ length: LOAD_PROCESSES }, startLoad))
  try {
    const failed =
      (await countDifferent('with all weights on the GPU', first!, await makeImages(directory, images))) +
      (await countDifferent('with offloaded weights', first!, await makeImages(directory, images, { budget })))
    if (failed > 0) throw new Error(`${failed} images differ under background load`)
  } finally {
    for (const load of loads) load.kill('SIGKILL')
  }
}

/** Prints and returns the number of images that differ from the first one. */
async function countDifferent(label: string, first: Uint8Array, images: readonly Uint8Array[]): Promise<number> {
  const others = images.filter((file) => !Buffer.from(file).equals(first))
  const expected = await readPixels(first)
  const similarities = await Promise.all(others.map(async (file) => psnr(await readPixels(file), expected)))
  const detail = others.length > 0 ? `, down to ${Math.min(...similarities).toFixed(1)} dB` : ''
  console.log(`${others.length > 0 ? '✗' : ' '} ${label}: ${others.length} of ${images.length} images differ${detail}`)
  return others.length
}

function makeImages(directory: string, images: number, options: { budget?: number } = {}): Promise<Uint8Array[]> {
  return withPipeline(
    directory,
    async (pipeline) => {
      const files: Uint8Array[] = []
      for (let i = 0; i < images; i++) files.push(await render(pipeline, REQUEST))
      return files
    },
    options,
  )
}

/** Starts a process with background load and waits for its first run. Throws if the process exits before. */
async function startLoad(): Promise<ChildProcess> {
  const program = path.join(import.meta.dirname, 'gpu-load.ts')
  const child = endWithThis(spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', 'inherit'] }))
  const ended = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the background load ended with ${code ?? signal}`)
  })
  await Promise.race([once(createInterface(child.stdout), 'line'), ended])
  ended.catch(() => {})
  return child
}
