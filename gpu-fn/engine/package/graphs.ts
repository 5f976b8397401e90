// The execution of a package on this machine: its graphs, their provider options, and their memory.
import { has4BitWeights } from '../../contract.ts'
import {
  CONTROL_NETWORKS,
  type ControlnetManifest,
  type ControlnetPackage,
  IMAGE_ENCODER,
  type Manifest,
  type NetworkName,
  type Package,
} from '../../manifest.ts'
import type { Size } from '../../pipeline/pipeline.ts'
import { findKernels, type Kernels } from '../../runtime/fp8-kernels.ts'
import { DENOISER } from '../../weights/load-order.ts'
import { type MemoryPlan, planMemory } from './memory-plan.ts'

/** On the CPU, weights of packages up to this size are widened to float32 once, on opening, which trades memory for speed. */
const FOLD_BYTES = 2 ** 30

type StoredPackage = { manifest: Pick<Manifest, 'files' | 'target' | 'tier'> }

/**
 * Whether the weights of a package are converted to float32 when it is opened (`fold`), and their resulting memory. On the CPU, all float16
 * weights and all folded FP8 weights, including 4-bit ones, are stored in memory as float32.
 */
export function footprintOf({ manifest: { files, target, tier } }: StoredPackage) {
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0)
  const fold = target === 'cpu' && bytes <= FOLD_BYTES
  const folded = has4BitWeights(tier) ? 8 : 4
  const widening = target !== 'cpu' || tier === 'fp32' ? 1 : fold && tier !== 'fp16' ? folded : 2
  return { fold, bytes: bytes * widening, widening }
}

/** The memory of the denoiser's weights; each device has a copy of them. */
export function sumDenoiserBytes(pkg: Pick<Package, 'manifest'>): number {
  const { networks, files } = pkg.manifest
  const bytes = DENOISER.reduce((sum, name) => sum + (files[networks[name]?.weights ?? '']?.bytes ?? 0), 0)
  return bytes * footprintOf(pkg).widening
}

const RUN_IN_STEPS: readonly NetworkName[] = [...DENOISER, ...CONTROL_NETWORKS]
/** onnxruntime's AttentionBackend::EFFICIENT_ATTENTION */
const EFFICIENT_ATTENTION = '2'

/**
 * Options of onnxruntime's CUDA provider for a network. For prompts cuDNN's attention is no faster, and its plan delays the first run by 90 ms
 * and the second by 50 ms. An exhaustive search for convolutions takes a second, the heuristic half of that, with the same result.
 */
export function chooseProviderOptions(network: NetworkName): Record<string, string> {
  if (network === 'vae_decoder' || network === IMAGE_ENCODER) return { cudnn_conv_algo_search: 'HEURISTIC' }
  return RUN_IN_STEPS.includes(network) ? {} : { sdpa_kernel: EFFICIENT_ATTENTION }
}

let installed: Kernels | undefined
/** Determined once, because a library stays loaded for the lifetime of the thread. */
const findInstalledKernels = () => (installed ??= findKernels())

/** The graphs of a ControlNet for this machine. */
export const chooseControlGraphs = (
  { networks, without_kernels }: ControlnetManifest,
  kernels: () => Kernels = findInstalledKernels,
): ControlnetManifest['networks'] =>
  without_kernels && !kernels().library ? { ...networks, ...without_kernels } : networks

type Graphs = Pick<Manifest, 'networks' | 'control'> & {
  batched: boolean
  kernels?: string | undefined
  note: string | null
}

/**
 * The graphs that this machine can run. For target cuda-fp8 without a supported GPU or without the library of kernels, these are the
 * package's graphs for 16-bit products.
 */
export function chooseGraphs(manifest: Manifest, kernels: () => Kernels = findInstalledKernels): Graphs {
  const { networks, without_kernels, control } = manifest
  const batched = manifest.transformer_batch === null
  if (!without_kernels) return { networks, control, batched, note: null }
  const found = kernels()
  if (found.library) return { networks, control, batched, kernels: found.library, note: null }
  const note = `${manifest.model}:${manifest.tier} runs with FP8 weights but 16-bit products: ${found.reason}`
  const others = { ...networks, ...removeAbsentNetworks(without_kernels) }
  return { networks: others, control: control?.without_kernels, batched: false, note }
}

const removeAbsentNetworks = (networks: NonNullable<Manifest['without_kernels']>): Manifest['networks'] =>
  Object.fromEntries(Object.entries(networks).flatMap(([name, network]) => (network ? [[name, network]] : [])))

/**
 * Limits of a memory plan. `sharing`: maximum number of jobs per run of the step graph; 1 by default. `shared`: minimum memory shared by all
 * packages of the process, in bytes; 0 by default. `capture`: repeat runs of the step graph as CUDA graphs where possible.
 */
export type PlanLimits = {
  budget?: number | undefined
  sharing?: number | undefined
  shared?: number | undefined
  capture?: boolean | undefined
}

/** The memory plan of a package for images up to `size`, by default the model's default size, and for a ControlNet. Throws `BudgetError`. */
export function planOf(
  pkg: Package,
  { budget, sharing, shared, capture }: PlanLimits,
  size: Size = pkg.manifest.defaults,
  controlnet: ControlnetPackage | null = null,
): MemoryPlan {
  const { manifest } = pkg
  const { batched, note } = chooseGraphs(manifest)
  const target = note === null ? manifest.target : 'cuda'
  const how = {
    ...{ target, samples: batched ? 2 : 1, widening: footprintOf(pkg).widening, sharing, shared, capture },
    ...(controlnet && {
      controlnet: { manifest: controlnet.manifest, widening: footprintOf(controlnet).widening },
    }),
  }
  return planMemory(manifest, size, budget ?? null, how)
}
