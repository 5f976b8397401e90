// A package with its tokenizers open and its graphs as the memory plan has them, ready to make images.
import path from 'node:path'
import type { Package } from '../manifest.ts'
import { type Manifest, type NetworkName, T5_GRAPHS } from '../manifest.ts'
import type { Pipeline, Size } from '../pipeline/pipeline.ts'
import type { EncoderName, TextEncoders } from '../pipeline/prompt.ts'
import { findKernels, type Kernels } from '../runtime/fp8-kernels.ts'
import { openSession, type SessionOptions } from '../runtime/open-session.ts'
import type { Session } from '../runtime/session.ts'
import { openTokenizer } from '../tokenizer/tokenizer.ts'
import { chain } from './chain.ts'
import { type MemoryPlan, planMemory } from './memory-plan.ts'
import { Residency } from './residency.ts'

/** A pipeline whose sessions follow a memory plan. */
export type OpenPipeline = Pipeline & {
  /** A remark for the operator about how it was opened. */
  note: string | null
  plan: MemoryPlan
  /** Names of the networks whose weights are loaded. */
  open(): NetworkName[]
  release(): Promise<void>
}

export type PipelineOptions = Pick<SessionOptions, 'fold' | 'threads' | 'binding'> & {
  /** Bytes of the device's memory that may be in use at any time; all of it unless given. */
  budget?: number | undefined
  /** Told of the plan at first and whenever it changes. */
  onPlan?: (plan: MemoryPlan) => void
  /** Told of each network that was opened, or whose weights came back, and how long it took. */
  onOpen?: (network: NetworkName, seconds: number) => void
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
  return { fold, bytes: bytes * widening, widening }
}

/** onnxruntime's AttentionBackend::EFFICIENT_ATTENTION */
const EFFICIENT_ATTENTION = '2'

/**
 * What onnxruntime's CUDA provider is told for a network. cuDNN's attention is no faster for prompts, but each first run waits 90 ms for its
 * plan and a second one 50 ms; to try all convolutions takes a second where to ask for the best one takes half, with the same result.
 */
export function providerOptions(network: NetworkName): Record<string, string> {
  if (network === 'vae_decoder') return { cudnn_conv_algo_search: 'HEURISTIC' }
  return network === 'transformer' || network === 'conditioning' ? {} : { sdpa_kernel: EFFICIENT_ATTENTION }
}

let installed: Kernels | undefined
/** Looked up once: a library stays loaded for the lifetime of the thread. */
const installedKernels = () => (installed ??= findKernels())

type Graphs = Pick<Manifest, 'networks'> & { batched: boolean; kernels?: string | undefined; note: string | null }

/**
 * The graphs that this machine can run: for target cuda-fp8 those with our kernels or, where GPU or library is not there, those that the
 * package has beside them, whose step multiplies in 16 bits.
 */
export function chooseGraphs(manifest: Manifest, kernels: () => Kernels = installedKernels): Graphs {
  const { networks, without_kernels } = manifest
  const batched = manifest.transformer_batch === null
  if (!without_kernels) return { networks, batched, note: null }
  const found = kernels()
  if ('library' in found) return { networks, batched, kernels: found.library, note: null }
  const note = `${manifest.model}:${manifest.tier} runs with FP8 weights but 16-bit products: ${found.missing}`
  return { networks: { ...networks, ...without_kernels }, batched: false, note }
}

/** What stays open of a package, for images up to a size: its own unless given. Throws `BudgetError`. */
export function planOf(pkg: Package, budget: number | undefined, size: Size = pkg.manifest.defaults): MemoryPlan {
  const { manifest } = pkg
  const { batched, note } = chooseGraphs(manifest)
  const target = note === null ? manifest.target : 'cuda'
  const how = { target, samples: batched ? 2 : 1, widening: footprintOf(pkg).widening }
  return planMemory(manifest, size, budget ?? null, how)
}

/**
 * Opens the tokenizers of a package and those of its graphs that stay open within the budget; the others open in their first run.
 * Throws `SessionError`, `TokenizerError` or `BudgetError`, with nothing left open.
 */
export async function openPipeline(pkg: Package, options: PipelineOptions = {}): Promise<OpenPipeline> {
  const { directory, manifest } = pkg
  const { budget, onPlan, onOpen, ...sessionOptions } = options
  const { fold } = footprintOf(pkg)
  const { networks, batched, kernels, note } = chooseGraphs(manifest)
  const residency = new Residency((network) => {
    const own = { target: manifest.target, fold, kernels, provider: providerOptions(network) }
    return openSession(path.join(directory, networks[network]!.file), { ...own, ...sessionOptions })
  }, onOpen)
  let largest: Size = manifest.defaults
  const adopt = async (plan: MemoryPlan) => {
    onPlan?.(plan)
    await residency.setResident(plan.resident)
    return plan
  }
  try {
    const encoders = await openEncoders(pkg, (network) => residency.session(network))
    const pipeline: OpenPipeline = {
      ...{ package: pkg, encoders, batched, note, plan: await adopt(planOf(pkg, budget)) },
      conditioning: residency.session('conditioning'),
      transformer: residency.session('transformer'),
      vaeDecoder: residency.session('vae_decoder'),
      async fit(size) {
        if (size.width * size.height <= largest.width * largest.height) return
        const plan = planOf(pkg, budget, size)
        largest = size
        if (JSON.stringify(plan) !== JSON.stringify(pipeline.plan)) pipeline.plan = await adopt(plan)
      },
      open: () => residency.open(),
      release: () => residency.release(),
    }
    return pipeline
  } catch (error) {
    await residency.release()
    throw error
  }
}

async function openEncoders(
  { directory, manifest }: Package,
  session: (network: NetworkName) => Session,
): Promise<TextEncoders> {
  const encoders: TextEncoders = {}
  for (const name of Object.keys(TOKENIZERS) as EncoderName[]) {
    if (!manifest.networks[name]) continue
    const tokenizer = await openTokenizer(path.join(directory, TOKENIZERS[name]))
    const graphs: readonly NetworkName[] = name === 't5' ? T5_GRAPHS : [name]
    const sessions = graphs.filter((graph) => manifest.networks[graph]).map(session)
    encoders[name] = { session: chain(sessions), tokenizer }
  }
  return encoders
}
