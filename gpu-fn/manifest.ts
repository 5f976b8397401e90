// A package's manifest.json: what the pipeline needs to know about a compiled model, and a digest of every file.
import * as z from 'zod'
import { sha256Hex, TIERS } from './contract.ts'

/** What a package is compiled for: onnxruntime's CPU provider, its CUDA provider, or CUDA with the operators of kernels/. */
export const TARGETS = ['cpu', 'cuda', 'cuda-fp8'] as const
export type Target = (typeof TARGETS)[number]

/** The graphs of T5, one after another; a small one has the first alone. */
export const T5_GRAPHS = ['t5', 't5_2', 't5_3', 't5_4'] as const
/** In the order in which a job needs them. */
export const NETWORKS = ['clip_l', 'clip_g', ...T5_GRAPHS, 'conditioning', 'transformer', 'vae_decoder'] as const
export type NetworkName = (typeof NETWORKS)[number]

/** The schedulers of pipeline/schedulers/ by diffusers' class names. */
export const SCHEDULER_NAMES = ['FlowMatchEulerDiscreteScheduler'] as const
export type SchedulerName = (typeof SCHEDULER_NAMES)[number]

const port = z.strictObject({
  name: z.string(),
  dtype: z.enum(['float32', 'int64', 'uint8']),
  /** A number is fixed; a string names an axis that is free at run time. */
  shape: z.array(z.union([z.int(), z.string()])),
})

const network = z.strictObject({ file: z.string(), inputs: z.array(port), outputs: z.array(port) })

export const manifest = z.strictObject({
  format: z.literal(1),
  /** The name a job asks for, such as `large-turbo`. */
  model: z.string(),
  variant: z.string(),
  tier: z.enum(TIERS),
  target: z.enum(TARGETS),
  tool: z.string(),
  /** Whose terms the weights are under, in a sentence. */
  licence: z.string(),
  /** SHA-256 over all of the checkpoint that went into the package, in its order: the same for the same checkpoint and options. */
  source: sha256Hex,
  defaults: z.strictObject({ steps: z.int(), guidance_scale: z.number(), width: z.int(), height: z.int() }),
  /** As in diffusers' scheduler_config.json. */
  scheduler: z.strictObject({
    name: z.enum(SCHEDULER_NAMES),
    shift: z.number(),
    num_train_timesteps: z.int(),
    /** Noise level of the last step; where the shifted schedule ends unless given. */
    shift_terminal: z.number().optional(),
  }),
  latent: z.strictObject({ channels: z.int(), /** pixels a latent row */ downsample: z.int(), patch_size: z.int() }),
  /** `graph`: the step graph computes positions; `input`: it takes `position` [h·w, D], cropped from `file` (float32 [max, max, D]). */
  position: z.strictObject({
    max: z.int(),
    source: z.enum(['graph', 'input']),
    file: z.string().optional(),
    width: z.int(),
  }),
  text: z.strictObject({
    /** null: the encoder is absent and zeros stand in its place, as in diffusers. */
    clip_l: z.strictObject({ width: z.int(), tokens: z.int() }).nullable(),
    clip_g: z.strictObject({ width: z.int(), tokens: z.int() }).nullable(),
    t5: z.strictObject({ max_tokens: z.int() }).nullable(),
    /** Width of `prompt_embeds` and of `pooled`. */
    joint_width: z.int(),
    pooled_width: z.int(),
  }),
  /** 1: the step graph takes one sample at a time; null: any number. */
  transformer_batch: z.literal(1).nullable(),
  networks: z.partialRecord(z.enum(NETWORKS), network),
  /** Target cuda-fp8: those that GPUs run which cannot run the kernels. They read the same weights; this step graph takes one sample. */
  without_kernels: z.strictObject({ transformer: network, vae_decoder: network }).optional(),
  /** Path in the package → size and digest. Tokenizer files are `tokenizer/…`, `tokenizer_2/…`, `tokenizer_3/…`. */
  files: z.record(z.string(), z.strictObject({ bytes: z.int().min(0), sha256: sha256Hex })),
})
export type Manifest = z.infer<typeof manifest>
export type Tier = Manifest['tier']

/** A compiled model on disk. */
export type Package = {
  directory: string
  manifest: Manifest
  /** SHA-256 of manifest.json in hex. It lists the digest of every file, so it names the package. */
  digest: string
}
