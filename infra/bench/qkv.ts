// Is one product for q, k and v faster than three? Both packages of the same weights, run in turn.
import fs from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import type { Manifest } from '../../gpu-fn/manifest.ts'
import { gaussianNoise } from '../../gpu-fn/pipeline/noise.ts'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../gpu-fn/runtime/session.ts'
import { writeSyntheticCheckpoint } from '../checkpoints/synthetic.ts'
import { median } from './statistics.ts'

export type QkvOptions = {
  readonly target: Manifest['target']
  readonly tier: Manifest['tier']
  readonly variant: 'large' | 'medium'
  readonly blocks: number
  readonly size: number
  readonly runs: number
}

const TEXT_TOKENS = 333

/** Prints milliseconds of one step with fused and with separate projections, and their ratio. Weights are random. */
export async function benchQkv({ target, tier, variant, blocks, size, runs }: QkvOptions): Promise<void> {
  const scratch = await fs.mkdtemp(path.join(os.tmpdir(), 'octet-bench-'))
  try {
    const checkpoint = path.join(scratch, 'checkpoint.safetensors')
    await writeSyntheticCheckpoint({ variant, out: checkpoint, blocks })
    const steps = []
    for (const fuseQkv of [true, false]) {
      const out = path.join(scratch, fuseQkv ? 'fused' : 'separate')
      const { manifest } = await compile({
        checkpoint: [checkpoint],
        out,
        tier,
        target,
        variant: 'custom',
        fuseQkv,
        allowMissingEncoders: true,
      })
      steps.push(await openStep(out, manifest, size))
    }
    const times: number[][] = [[], []]
    for (let run = 0; run <= runs; run++) {
      for (const [i, step] of steps.entries()) {
        const start = performance.now()
        await step()
        if (run > 0) times[i]!.push(performance.now() - start)
      }
    }
    const [fused, separate] = times.map(median) as [number, number]
    const what = `${variant}, ${blocks} blocks, ${size}², ${tier} on ${target}, median of ${runs}`
    console.log(
      `${what}: fused ${fused.toFixed(1)} ms, separate ${separate.toFixed(1)} ms, separate / fused ${(separate / fused).toFixed(3)}`,
    )
  } finally {
    await fs.rm(scratch, { recursive: true })
  }
}

/** One step of the denoiser on noise. */
async function openStep(directory: string, manifest: Manifest, size: number): Promise<() => Promise<unknown>> {
  const session = await openSession(path.join(directory, 'transformer.onnx'), { target: manifest.target })
  const free: Record<string, number> = { B: 1, L: TEXT_TOKENS, h: size / 8, w: size / 8, S: (size / 16) ** 2 }
  const inputs: Record<string, Tensor> = {}
  for (const { name, shape } of manifest.networks.transformer!.inputs) {
    const dims = shape.map((dim) => (typeof dim === 'number' ? dim : free[dim]!))
    inputs[name] = {
      data: gaussianNoise(
        0,
        dims.reduce((n, dim) => n * dim, 1),
      ),
      dims,
    }
  }
  return () => session.run(inputs)
}
