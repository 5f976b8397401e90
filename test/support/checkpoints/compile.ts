// Packages of tiny checkpoints, compiled once for one state of the sources and shared by all test files.
import { createHash } from 'node:crypto'
import path from 'node:path'
import { compile } from '../../../gpu-fn/compile/compile.ts'
import type { AdaLNBits, T5Bits } from '../../../gpu-fn/compile/graph/model.ts'
import { reference } from '../../../gpu-fn/kernels/reference.ts'
import type { Manifest } from '../../../gpu-fn/manifest.ts'
import { type TinyOptions, writeTinyCheckpoint } from '../../../infra/checkpoints/tiny/checkpoint.ts'
import { COMPILER } from '../../../infra/local/models/built-in-model.ts'
import { cacheDirectory, digestOf, makeOnce } from '../../../infra/local/models/package-cache.ts'

const SOURCES = [
  ...COMPILER,
  'gpu-fn/kernels/**/*.ts',
  'infra/checkpoints/tiny/**/*.*',
  'infra/checkpoints/{write-safetensors,safetensors-header}.ts',
]

export type TinyPackage = TinyOptions & {
  tier?: Manifest['tier']
  target?: Manifest['target']
  /** With the roundings of target cuda-fp8, by the definition of its operators. */
  asKernels?: boolean
  /** Layers in each graph of T5. */
  t5Layers?: number
  adalnBits?: AdaLNBits
  t5Bits?: T5Bits
}

/** Compiles a tiny checkpoint, for the CPU by default, and returns the package's directory. */
export async function compileTiny({
  tier = 'fp32',
  target = 'cpu',
  asKernels = false,
  t5Layers,
  adalnBits,
  t5Bits,
  ...tiny
}: TinyPackage): Promise<string> {
  const name = createHash('sha256')
    .update(JSON.stringify([tier, target, asKernels, t5Layers, adalnBits, t5Bits, Object.entries(tiny).sort()]))
    .digest('hex')
    .slice(0, 16)
  const directory = path.join(await cacheDirectory('tiny', await digestOf(SOURCES)), name)
  await makeOnce(directory, async (out, scratch) => {
    const checkpoint = await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), tiny)
    const lowering = asKernels ? reference : undefined
    await compile({
      checkpoint: [checkpoint],
      out,
      tier,
      target,
      variant: 'custom',
      lowering,
      encoderLayersPerGraph: t5Layers,
      adalnBits,
      t5Bits,
      // The diffusers layout states that it has no T5.
      omitT5: tiny.t5 === false && tiny.layout === 'single-file',
    })
  })
  return directory
}
