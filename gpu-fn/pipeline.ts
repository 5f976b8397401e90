// A package with its graphs and tokenizers open, ready to make images.
import path from 'node:path'
import type { Manifest, NetworkName } from './compile/manifest.ts'
import { findKernels, type Kernels } from './fp8-kernels.ts'
import type { Package } from './packages.ts'
import type { EncoderName, TextEncoders } from './prompt.ts'
import { openSession, type Session, type SessionOptions } from './session.ts'
import { openTokenizer } from './tokenizer.ts'

/** Use it from one thread. */
export type Pipeline = {
  package: Package
  encoders: TextEncoders
  conditioning: Session
  transformer: Session
  /** Whether one run of the step graph takes several samples. */
  batched: boolean
  vaeDecoder: Session
  /** What an operator should know of how it was opened, if anything. */
  note: string | null
  release(): Promise<void>
}

const TOKENIZERS = { clip_l: 'tokenizer', clip_g: 'tokenizer_2', t5: 'tokenizer_3' } as const
/** On the CPU the weights of packages up to this size are widened to float32 as they are opened: some gigabytes for much speed. */
const FOLD_BYTES = 2 ** 30

/**
 * Whether the weights of a package are folded when it is opened, and the bytes that it then takes at most: the CPU keeps every float16
 * weight, and every folded FP8 weight, as float32.
 */
export function footprintOf({ manifest: { files, target, tier } }: Pick<Package, 'manifest'>) {
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0)
  const fold = target === 'cpu' && bytes <= FOLD_BYTES
  const widening = target !== 'cpu' || tier === 'fp32' ? 1 : fold && tier !== 'fp16' ? 4 : 2
  return { fold, bytes: bytes * widening }
}

type StepGraph = { file: string; batched: boolean; kernels?: string | undefined; note: string | null }

/**
 * The step graph that this machine can run: for target cuda-fp8 the one on FP8 tensor cores or, where GPU or library is not there, the
 * weight-only one that the package has beside it.
 */
export function chooseStepGraph(manifest: Manifest, kernels: () => Kernels = findKernels): StepGraph {
  const own = manifest.networks.transformer!
  const batched = manifest.transformer_batch === null
  if (manifest.target !== 'cuda-fp8') return { file: own.file, batched, note: null }
  const found = kernels()
  if ('library' in found) return { file: own.file, batched, kernels: found.library, note: null }
  const note = `${manifest.model}:${manifest.tier} runs with FP8 weights but 16-bit products: ${found.missing}`
  return { file: manifest.weight_only!.file, batched: false, note }
}

export type PipelineOptions = Pick<SessionOptions, 'fold' | 'threads' | 'binding'>

/** Opens every graph and tokenizer of a package. Throws `SessionError` or `TokenizerError`, with nothing left open. */
export async function openPipeline(pkg: Package, options: PipelineOptions = {}): Promise<Pipeline> {
  const { directory, manifest } = pkg
  const { fold } = footprintOf(pkg)
  const opened: Session[] = []
  const release = async () => {
    for (const session of opened.splice(0)) await session.release()
  }
  const openFile = async (file: string, kernels?: string) => {
    const { target } = manifest
    const session = await openSession(path.join(directory, file), { target, fold, kernels, ...options })
    opened.push(session)
    return session
  }
  const open = (network: NetworkName) => openFile(manifest.networks[network]!.file)
  try {
    const encoders: TextEncoders = {}
    for (const name of Object.keys(TOKENIZERS) as EncoderName[]) {
      if (!manifest.networks[name]) continue
      const tokenizer = await openTokenizer(path.join(directory, TOKENIZERS[name]))
      encoders[name] = { session: await open(name), tokenizer }
    }
    const conditioning = await open('conditioning')
    const { file, kernels, batched, note } = chooseStepGraph(manifest)
    const transformer = await openFile(file, kernels)
    const vaeDecoder = await open('vae_decoder')
    return { package: pkg, encoders, conditioning, transformer, batched, vaeDecoder, note, release }
  } catch (error) {
    await release()
    throw error
  }
}
