// The result of building a checkpoint: the graphs, and the parts of the manifest that describe them.
import type { Manifest, NetworkName, Tier } from '../../manifest.ts'
import type { Tensor } from '../checkpoint/tensor.ts'
import type { Graph } from './graph.ts'
import type { Lowering } from './scope.ts'

/** Bits per adaLN weight in tiers with FP8 weights. 8: block-quantized integers. */
export const ADALN_BITS = [16, 8] as const
export type AdaLNBits = (typeof ADALN_BITS)[number]
/** Bits per T5 weight in tiers with FP8 weights. 8: FP8; 4: block-quantized integers. */
export const T5_BITS = [8, 4] as const
export type T5Bits = (typeof T5_BITS)[number]

export type BuildOptions = {
  readonly tier: Tier
  readonly variant?: string | undefined
  /** Default steps and guidance scale of the package; those of the variant unless given. */
  readonly steps?: number | undefined
  readonly guidanceScale?: number | undefined
  readonly allowMissingEncoders?: boolean | undefined
  /** Leaves out the checkpoint's T5, as tier fp8-lite always does. */
  readonly omitT5?: boolean | undefined
  /** Bits per adaLN weight in tiers with FP8 weights. Default: 8 in tier fp8-int4, else 16. */
  readonly adalnBits?: AdaLNBits | undefined
  /** Bits per T5 weight in tiers with FP8 weights. Default: 4 in tier fp8-int4, else 8. */
  readonly t5Bits?: T5Bits | undefined
  /** Adds the denoiser's residual streams to its graph's outputs, for comparing targets layer by layer. */
  readonly probes?: boolean | undefined
  /** Layers per graph of a text encoder that is split into several graphs. */
  readonly encoderLayersPerGraph?: number | undefined
}

/** The lowering of a package's target, and that of its graphs for GPUs that do not support the target's kernels; null if there are none. */
export type Lowerings = { readonly lowering: Lowering; readonly withoutKernels: Lowering | null }

/** The requirements of a text encoder on its tokenizer. */
export type Vocabulary = {
  /** Rows of its embedding. */
  readonly rows: number
  /** The tokens around every prompt, and after it up to the length of the encoder's input. */
  readonly start: string | null
  readonly end: string
  readonly pad: string
  /** Rows of the published embedding, and ids of the published tokenizer. */
  readonly published: { readonly rows: number; readonly ids: number }
}

/** Graphs over the weights of the step graph, for ControlNets. `transformer` takes their residuals, and `embedding` gives the tokens of a latent. */
export type ControlGraphs = { readonly embedding: Graph; readonly transformer: Graph }

export type Model = {
  /** In execution order. */
  readonly graphs: ReadonlyMap<NetworkName, Graph>
  /** Graphs over the same weights for GPUs that do not support the kernels of `graphs`; null if the kernels have no substitute. */
  readonly withoutKernels: {
    readonly transformer: Graph
    readonly vae_decoder: Graph
    readonly vae_encoder?: Graph
  } | null
  readonly control: ControlGraphs & { readonly withoutKernels: ControlGraphs | null }
  /** The vocabulary of each text encoder. */
  readonly vocabularies: ReadonlyMap<string, Vocabulary>
  /** The position table, if the step graph cannot compute it. */
  readonly positionTable: Tensor | null
  readonly manifest: Pick<
    Manifest,
    'variant' | 'license' | 'defaults' | 'scheduler' | 'latent' | 'position' | 'blocks' | 'text' | 'transformer_batch'
  >
  /** Remarks for the operator, in sentences. */
  readonly notes: readonly string[]
}
