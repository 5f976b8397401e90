// A single-file SD3.5 checkpoint of full size with seeded random weights, to measure the compiler on: transformer and autoencoder.
// node infra/checkpoints/synthetic.ts --variant large|medium --out FILE [--dtype bf16] [--blocks N] [--seed 0]
import { open } from 'node:fs/promises'
import { Command, Option } from 'commander'
import { float32ToFloat16 } from '../../gpu-fn/compile/checkpoint/formats/dtype.ts'
import { parseWholeNumber } from '../command/whole-number.ts'
import { stabilityTransformer, VARIANTS } from './published-shapes.ts'
import { stabilityVae } from './published-vae-shapes.ts'
import { safetensorsHeader, type TensorShape } from './safetensors-header.ts'

export type SyntheticOptions = {
  variant: keyof typeof VARIANTS
  out: string
  dtype?: TensorShape['dtype']
  /** Number of joint blocks; all of the variant by default. */
  blocks?: number
  seed?: number
}

/** Number of distinct random values: a prime, so that no two rows of a matrix are equal. */
const DRAWN = 8_388_593
/** Weights are uniform in [-RANGE, RANGE]. */
const RANGE = 0.05

/** Writes the checkpoint to `out`; the same options give the same bytes. Returns its size in bytes. */
export async function writeSyntheticCheckpoint(options: SyntheticOptions): Promise<number> {
  const { variant, out, dtype = 'BF16', blocks = VARIANTS[variant].depth, seed = 0 } = options
  const networks = [
    ['model.diffusion_model.', stabilityTransformer(VARIANTS[variant], blocks)],
    ['first_stage_model.', stabilityVae()],
  ] as const
  const tensors = networks.flatMap(([prefix, shapes]) =>
    [...shapes].map(([name, shape]) => ({ name: `${prefix}${name}`, shape })),
  )
  return writeRandomTensors(out, tensors, dtype, seed)
}

/** Writes `tensors` with weights drawn from `seed`, all of them finite. Returns the file's size in bytes. */
export async function writeRandomTensors(
  out: string,
  tensors: readonly Omit<TensorShape, 'dtype'>[],
  dtype: TensorShape['dtype'],
  seed: number,
): Promise<number> {
  const { header, dataBytes } = safetensorsHeader(tensors.map(({ name, shape }) => ({ name, shape, dtype })))
  const block = encode(drawWeights(seed), dtype)
  await using file = await open(out, 'w')
  await file.writeFile(header)
  for (let left = dataBytes; left > 0; left -= block.length) await file.writeFile(block.subarray(0, left))
  return header.length + dataBytes
}

function drawWeights(seed: number): Float32Array {
  const weights = new Float32Array(DRAWN)
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1
  for (let i = 0; i < weights.length; i++) {
    // xorshift32: Marsaglia, "Xorshift RNGs", 2003.
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    weights[i] = (state / 2 ** 31) * RANGE
  }
  return weights
}

function encode(weights: Float32Array, dtype: TensorShape['dtype']): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(weights.buffer)
  const words = new Uint16Array(weights.length)
  if (dtype === 'F16') float32ToFloat16(weights, words)
  else {
    const bits = new Uint32Array(weights.buffer)
    for (let i = 0; i < bits.length; i++) words[i] = bits[i]! >>> 16
  }
  return new Uint8Array(words.buffer)
}

if (import.meta.main) {
  const command = new Command('synthetic-checkpoint')
    .description('Write a full-size SD3.5 checkpoint with random weights.')
    .addOption(new Option('--variant <name>').choices(Object.keys(VARIANTS)).makeOptionMandatory())
    .requiredOption('--out <file>', 'the safetensors file to write')
    .addOption(new Option('--dtype <dtype>').choices(['bf16', 'f16', 'f32']).default('bf16'))
    .option('--blocks <count>', 'joint blocks, to make it shorter', parseWholeNumber)
    .option('--seed <seed>', 'what to draw the weights from', parseWholeNumber, 0)
    .parse()
  const { dtype, ...options } = command.opts<Omit<SyntheticOptions, 'dtype'> & { dtype: string }>()
  const start = performance.now()
  const bytes = await writeSyntheticCheckpoint({ ...options, dtype: dtype.toUpperCase() as TensorShape['dtype'] })
  const seconds = (performance.now() - start) / 1000
  console.log(
    `${options.out}: ${(bytes / 1e9).toFixed(2)} GB in ${seconds.toFixed(1)} s, ${(bytes / 1e6 / seconds).toFixed(0)} MB/s`,
  )
}
