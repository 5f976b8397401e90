// Do the networks give the same on CUDA as on the CPU? The same weights, compiled for both, on the same inputs.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { type Manifest, NETWORKS } from '../../gpu-fn/compile/manifest.ts'
import { gaussianNoise } from '../../gpu-fn/noise.ts'
import { openSession, type Tensor } from '../../gpu-fn/session.ts'
import { type Pixels, psnr, readPixels } from '../compare-images.ts'
import { type RenderRequest, render, withPipeline } from '../render.ts'
import type { TinyVariant } from '../tiny/variants.ts'
import { writeTinyCheckpoint } from '../tiny-checkpoint.ts'

export type TargetsOptions = { readonly variant: TinyVariant; readonly tier: Manifest['tier'] }

const AXES: Record<string, number> = { B: 1, L: 96, h: 32, w: 24, S: 16 * 12, T: 4 }
const REQUEST: RenderRequest = {
  prompt: 'a red heart on a blue sky',
  width: 256,
  height: 256,
  steps: 8,
  guidance_scale: 4,
  seed: 5,
}

/** Prints the relative error ‖cuda − cpu‖ / ‖cpu‖ of every output of every network, and the PSNR of an image. */
export async function benchTargets({ variant, tier }: TargetsOptions): Promise<void> {
  const scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-bench-'))
  try {
    const checkpoint = await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), { variant })
    const [cpu, cuda] = [path.join(scratch, 'cpu'), path.join(scratch, 'cuda')]
    const { manifest } = await compile({ checkpoint: [checkpoint], out: cpu, tier, target: 'cpu', variant: 'custom' })
    await compile({ checkpoint: [checkpoint], out: cuda, tier, target: 'cuda', variant: 'custom' })
    for (const name of NETWORKS.filter((network) => manifest.networks[network])) {
      const inputs = inputsOf(manifest.networks[name]!)
      const expected = await runOnce(path.join(cpu, `${name}.onnx`), 'cpu', inputs)
      const given = await runOnce(path.join(cuda, `${name}.onnx`), 'cuda', inputs)
      const errors = Object.keys(expected).map(
        (output) => `${output} ${relativeError(given[output]!, expected[output]!)}`,
      )
      console.log(`${variant} ${tier} ${name}: ${errors.join(', ')}`)
    }
    console.log(`${variant} ${tier} image: PSNR ${psnr(await pixels(cuda), await pixels(cpu)).toFixed(1)} dB`)
  } finally {
    await fs.rm(scratch, { recursive: true })
  }
}

function inputsOf({ inputs }: NonNullable<Manifest['networks']['t5']>): Record<string, Tensor> {
  return Object.fromEntries(
    inputs.map(({ name, dtype, shape }) => {
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : AXES[dim]!))
      const size = dims.reduce((n, dim) => n * dim, 1)
      if (dtype === 'int64')
        return [name, { data: BigInt64Array.from({ length: size }, (_, i) => BigInt((i * 37) % 200)), dims }]
      const data = name === 'timesteps' ? Float32Array.of(1000, 857.7, 602.2, 8.93) : gaussianNoise(3, size)
      return [name, { data, dims }]
    }),
  )
}

async function runOnce(
  file: string,
  target: Manifest['target'],
  inputs: Record<string, Tensor>,
): Promise<Record<string, Tensor>> {
  const session = await openSession(file, { target })
  try {
    return await session.run(inputs)
  } finally {
    await session.release()
  }
}

const pixels = (directory: string): Promise<Pixels> =>
  withPipeline(directory, async (pipeline) => readPixels(await render(pipeline, REQUEST)))

function relativeError(given: Tensor, expected: Tensor): string {
  const [a, b] = [given.data as Float32Array, expected.data as Float32Array]
  let difference = 0
  let norm = 0
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm).toExponential(1)
}
