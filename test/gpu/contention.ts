// Repeats images while other processes use the same GPU, which delays its work by up to several time slices. Work that does not wait for
// the copy of its inputs, or of its weights, then has other results.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { createInterface } from 'node:readline'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { CHECKPOINTS } from '../../infra/local/models/built-in-model.ts'
import { render, withPipeline } from '../../infra/local/models/render.ts'
import { psnr, readPixels } from '../../infra/receipts/compare-images.ts'
import { findSmallestBudget } from './budget.ts'

const REQUEST = { prompt: 'a red heart on a blue sky', width: 256, height: 256, seed: 5 }
const OCCUPANTS = 2

/** Prints the number of images that differ from the first one, made without contention. Throws if there are any. */
export async function repeatUnderContention({ images }: { images: number }): Promise<void> {
  const scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-contention-'))
  let occupants: ChildProcess[] = []
  try {
    await compile({ checkpoint: [CHECKPOINTS.nano], tier: 'fp8', variant: 'nano', out: scratch, target: 'cuda-fp8' })
    const [first] = await makeImages(scratch, 1)
    occupants = await Promise.all(Array.from({ length: OCCUPANTS }, startOccupant))
    const budget = findSmallestBudget(await openPackage(scratch), REQUEST)
    let failed = 0
    for (const [label, options] of [
      ['with all weights on the GPU', {}],
      ['with offloaded weights', { budget }],
    ] as const) {
      const made = await makeImages(scratch, images, options)
      const others = made.filter((file) => !Buffer.from(file).equals(first!))
      const pixels = await readPixels(first!)
      const worst = await Promise.all(others.map(async (file) => psnr(await readPixels(file), pixels)))
      const detail = others.length > 0 ? `, down to ${Math.min(...worst).toFixed(1)} dB` : ''
      console.log(`${others.length > 0 ? '✗' : ' '} ${label}: ${others.length} of ${images} images differ${detail}`)
      failed += others.length
    }
    if (failed > 0) throw new Error(`${failed} images differ under contention`)
  } finally {
    for (const occupant of occupants) occupant.kill('SIGKILL')
    await fs.rm(scratch, { recursive: true })
  }
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

/** Starts a process that uses the GPU, and waits until it does. Throws if it ends first. */
async function startOccupant(): Promise<ChildProcess> {
  const program = path.join(import.meta.dirname, 'occupant.ts')
  const child = spawn(process.execPath, [program], { stdio: ['ignore', 'pipe', 'inherit'] })
  process.once('exit', () => child.kill('SIGKILL'))
  const ended = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the process that uses the GPU ended with ${code ?? signal}`)
  })
  await Promise.race([once(createInterface(child.stdout), 'line'), ended])
  ended.catch(() => {})
  return child
}
