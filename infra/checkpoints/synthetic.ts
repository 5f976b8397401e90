// A single-file SD3.5 checkpoint of full size with seeded random weights, to measure the compiler on: transformer and autoencoder.
// node infra/checkpoints/synthetic.ts --variant large|medium --out FILE [--dtype bf16] [--blocks N] [--seed 0]
import { open } from 'node:fs/promises'
import { Command, Option } from 'commander'
import { parseWholeNumber } from '../command/numbers.ts'
import { type NamedShape, PUBLISHED, type PublishedModel, readSingleFileShapes } from './published.ts'
import { drawPool } from './random-weights.ts'
import { encodeSafetensorsHeader, type TensorShape } from './safetensors-header.ts'
import { encode } from './write-safetensors.ts'

type SyntheticOptions = {
  variant: PublishedModel
  out: string
  dtype?: TensorShape['dtype']
  /** Number of joint blocks; all of the variant by default. */
  blocks?: number
  seed?: number
}

/** Weights are uniform in [-RANGE, RANGE]. */
const RANGE = 0.05

/** Writes the checkpoint to `out`; the same options produce the same bytes. Returns its size in bytes. */
export async function writeSyntheticCheckpoint(options: SyntheticOptions): Promise<number> {
  const { variant, out, dtype = 'BF16', blocks, seed = 0 } = options
  return writeRandomTensors(out, await readSingleFileShapes(variant, blocks), dtype, seed)
}

/** Writes `tensors` with weights drawn from `seed`, all of them finite. Returns the file's size in bytes. */
export async function writeRandomTensors(
  out: string,
  tensors: readonly NamedShape[],
  dtype: TensorShape['dtype'],
  seed: number,
): Promise<number> {
  const { header, dataBytes } = encodeSafetensorsHeader(tensors.map((each) => ({ ...each, dtype })))
  const block = encode(drawPool(seed, RANGE), dtype)
  await using file = await open(out, 'w')
  await file.writeFile(header)
  for (let left = dataBytes; left > 0; left -= block.length) await file.writeFile(block.subarray(0, left))
  return header.length + dataBytes
}

if (import.meta.main) {
  const command = new Command('synthetic-checkpoint')
    .description('Writes a full-size SD3.5 checkpoint with random weights.')
    .addOption(new Option('--variant <name>').choices(PUBLISHED).makeOptionMandatory())
    .requiredOption('--out <file>', 'the safetensors file')
    .addOption(new Option('--dtype <dtype>').choices(['bf16', 'f16', 'f32']).default('bf16'))
    .option('--blocks <count>', 'number of joint blocks; all of the variant by default', parseWholeNumber)
    .option('--seed <seed>', 'seed of the weights', parseWholeNumber, 0)
    .parse()
  const { dtype, ...options } = command.opts<Omit<SyntheticOptions, 'dtype'> & { dtype: string }>()
  const start = performance.now()
  const bytes = await writeSyntheticCheckpoint({ ...options, dtype: dtype.toUpperCase() as TensorShape['dtype'] })
  const seconds = (performance.now() - start) / 1000
  console.log(
    `${options.out}: ${(bytes / 1e9).toFixed(2)} GB in ${seconds.toFixed(1)} s, ${(bytes / 1e6 / seconds).toFixed(0)} MB/s`,
  )
}
