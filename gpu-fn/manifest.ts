// A package's manifest.json: everything the pipeline needs about a compiled model, and a digest of every file.
import * as z from 'zod'
import { modelName, sha256Hex, TIERS } from './contract.ts'
import { countElements, DTYPES } from './dtype.ts'

/** The execution platform of a package: onnxruntime's CPU provider, its CUDA provider, or CUDA with the operators of kernels/. */
export const TARGETS = ['cpu', 'cuda', 'cuda-fp8'] as const
export type Target = (typeof TARGETS)[number]

/** The possible default samplers of a package, by diffusers' class names; pipeline/schedulers/. */
export const SCHEDULER_NAMES = [
  'FlowMatchEulerDiscreteScheduler',
  'FlowMatchHeunDiscreteScheduler',
  'FlowMatchLCMScheduler',
] as const
export type SchedulerName = (typeof SCHEDULER_NAMES)[number]

/** Networks that every package has. The names of its text encoders' graphs are in `text.encoders`. */
export const IMAGE_NETWORKS = ['conditioning', 'transformer', 'vae_decoder'] as const
/** The network of packages that take input images. */
export const IMAGE_ENCODER = 'vae_encoder'
export type NetworkName = string
/** The networks of a ControlNet. */
export const CONTROL_NETWORKS = ['control_conditioning', 'control'] as const
export type ControlNetwork = (typeof CONTROL_NETWORKS)[number]

/** The package format, which defines the manifest's fields and the operators in the graphs. Packages of another format are refused. */
export const MANIFEST_FORMAT = 5

const count = z.int().min(0)

const port = z.strictObject({
  name: z.string(),
  dtype: z.enum(DTYPES),
  /** A number is a fixed length; a string names a dynamic axis. */
  shape: z.array(z.union([z.int(), z.string()])),
})

const network = z.strictObject({
  /** ONNX file of the graph. */
  file: z.string(),
  /** File of its weights, whose layout is in `weights`; absent for a graph without weights. */
  weights: z.string().optional(),
  inputs: z.array(port),
  outputs: z.array(port),
})

/**
 * Graphs over the weights of `transformer`, for ControlNets: `embedding` gives the tokens of a latent, and `transformer` is a step that takes
 * a ControlNet's residuals.
 */
const controlGraphs = z.strictObject({ embedding: network, transformer: network })

/** A weight at `offset` of its file, dense, row-major and little-endian. */
const storedTensor = z.strictObject({
  ...{ name: z.string(), dtype: z.enum(DTYPES), shape: z.array(count), offset: count },
  /** Bits per value of a block-quantized weight, whose shape is [N, blocks, bytes per block], as in `MatMulNBits`. */
  bits: z.union([z.literal(4), z.literal(8)]).optional(),
})

/** Rows of an encoder's input, or of zeros in its place: a request's `max_sequence_length`, or `default`, but at most `max`. */
const rows = z.strictObject({ default: count, max: count })
export type Rows = z.infer<typeof rows>
/** The prompts of a request, each for one encoder, as in diffusers. */
const PROMPTS = ['prompt', 'prompt_2', 'prompt_3'] as const

const textEncoder = z.strictObject({
  name: z.string(),
  /** Name in messages to callers. */
  title: z.string(),
  /** Directory of its tokenizer in the package. */
  tokenizer: z.string(),
  /** Its graphs; each takes the outputs of the one before it. */
  graphs: z.array(z.string()).min(1),
  /** The prompt that it encodes. */
  prompt: z.enum(PROMPTS),
  /** The length to which prompts are padded or truncated. */
  tokens: rows,
  /** Position of its hidden states in `prompt_embeds`: an index of `segments`, and the first column. */
  segment: count,
  column: count,
  /** First element of its pooled vector in `pooled`; null for an encoder without one. */
  pooled_offset: count.nullable(),
})

export const manifest = z.strictObject({
  format: z.literal(MANIFEST_FORMAT, {
    error: ({ input }) =>
      `the format is ${String(JSON.stringify(input)).slice(0, 20)} and this version reads ${MANIFEST_FORMAT}; ` +
      'compile the checkpoint again with `npm run compile`',
  }),
  /** Model name in requests, such as `large-turbo`. */
  model: z.string(),
  variant: z.string(),
  tier: z.enum(TIERS),
  target: z.enum(TARGETS),
  tool: z.string(),
  /** License of the weights, in a sentence. */
  license: z.string(),
  /** SHA-256 of the checkpoint's tensors in the order of compilation: equal for equal checkpoints and options. */
  source: sha256Hex,
  defaults: z.strictObject({ steps: z.int(), guidance_scale: z.number(), width: z.int(), height: z.int() }),
  /** As in diffusers' scheduler_config.json. */
  scheduler: z.strictObject({
    name: z.enum(SCHEDULER_NAMES),
    shift: z.number(),
    num_train_timesteps: z.int(),
    /** Noise level of the last step; by default the end of the shifted schedule. */
    shift_terminal: z.number().optional(),
    /** Spacing between the first and the last shifted noise level; absent: that of the timesteps. */
    spacing: z.enum(['karras', 'exponential', 'beta']).optional(),
  }),
  latent: z.strictObject({
    channels: z.int(),
    /** Pixels per latent row. */
    downsample: z.int(),
    patch_size: z.int(),
    /** Red, green and blue of each channel in previews; absent if the model has no previews. */
    preview: z.array(z.tuple([z.number(), z.number(), z.number()])).optional(),
  }),
  /** With `file` (float32 [max, max, D]), the step graph takes `position` [h·w, D], cropped from it; otherwise it computes positions. */
  position: z.strictObject({ max: z.int(), width: z.int(), file: z.string().optional() }),
  /** The denoiser's blocks, for skip-layer guidance. Packages of earlier versions have none. */
  blocks: z
    .strictObject({
      /** The gates of each block: rows of `position.width` values in the modulation. */
      gates: z.array(z.array(count)),
      /** The blocks that a request skips unless it lists others. */
      skipped: z.array(count).optional(),
    })
    .optional(),
  text: z.strictObject({
    /** The encoders of the package, in execution order. */
    encoders: z.array(textEncoder),
    /**
     * `prompt_embeds` [L, `joint_width`] consists of segments of rows. The encoders of a segment fill adjacent columns. A segment without
     * encoders has this many rows of zeros.
     */
    segments: z.array(rows),
    joint_width: z.int(),
    pooled_width: z.int(),
  }),
  /** Batch size of the step graph; null if it is variable. */
  transformer_batch: z.literal(1).nullable(),
  /** In execution order. */
  networks: z.record(z.string(), network),
  /** Target cuda-fp8: graphs with the same weights for GPUs without support for the kernels. Their step graph has batch size 1. */
  without_kernels: z
    .strictObject({
      transformer: network,
      vae_decoder: network,
      vae_encoder: network.optional(),
    })
    .optional(),
  /** Absent in packages of earlier versions, which take no ControlNets. `without_kernels`: as above. */
  control: controlGraphs.extend({ without_kernels: controlGraphs.optional() }).optional(),
  /** Layout of each weights file, in ascending order of offsets. */
  weights: z.record(z.string(), z.array(storedTensor)),
  /** Path in the package → size and digest. */
  files: z.record(z.string(), z.strictObject({ bytes: count, sha256: sha256Hex })),
})
export type Manifest = z.infer<typeof manifest>
export type Tier = Manifest['tier']
export type TextEncoderManifest = Manifest['text']['encoders'][number]
export type StoredTensor = z.infer<typeof storedTensor>

/** Shape of a stored weight's values: for block-quantized weights that of the dequantized matrix. */
export const shapeOfValues = ({ shape, bits }: Pick<StoredTensor, 'shape' | 'bits'>): readonly number[] =>
  bits ? [shape[0]!, (countElements(shape.slice(1)) * 8) / bits] : shape

/** A compiled model on disk. */
export type Package = {
  directory: string
  manifest: Manifest
  /** SHA-256 of manifest.json in hex. It lists the digest of every file, so it names the package. */
  digest: string
  /** The state of each file during and after a download by this process (weights/download/arrival.ts). */
  arrival?: Int32Array<SharedArrayBuffer>
}

/** Version of the fields below and of the graphs that apply an adapter. A package with another version is refused. */
export const LORA_FORMAT = 4

/** Element types of low-rank factors. */
export const FACTOR_DTYPES = ['float32', 'float16', 'bfloat16'] as const
export type FactorDtype = (typeof FACTOR_DTYPES)[number]
/** Weight types with an update graph. FP8 has another one with our kernel; integers (`uint8`) have one per type of scales. */
export const UPDATED_DTYPES = [
  ...(['float8e4m3fn', 'float8e4m3fn-kernel', 'uint8-float32', 'uint8-float16', 'float16', 'float32'] as const),
] as const

/** A matrix at `offset` of the file of factors, dense, row-major and little-endian. */
const factor = z.strictObject({ dtype: z.enum(FACTOR_DTYPES), offset: count })

/** Low-rank update of rows [start, end) of a weight: `scale` · up [rank, end - start] transposed · down [rank, K]. */
const loraModule = z.strictObject({
  /** As in the base: `transformer`, or the name of a text encoder. */
  network: z.string(),
  /** Name of the weight in the checkpoint, and its whole shape. */
  weight: z.string(),
  shape: z.array(count).min(2),
  rows: z.tuple([count, count]),
  rank: z.int().min(1),
  scale: z.number(),
  up: factor,
  down: factor,
})
export type LoraModule = z.infer<typeof loraModule>

/** manifest.json of an adapter (LoRA), which applies to every package whose weights have these names and shapes. */
export const loraManifest = z.strictObject({
  kind: z.literal('lora'),
  format: z.literal(LORA_FORMAT, {
    error: ({ input }) =>
      `the format is ${String(JSON.stringify(input)).slice(0, 20)} and this version reads ${LORA_FORMAT}; ` +
      'compile the adapter again with `npm run compile -- --lora`',
  }),
  /** ID for requests. */
  name: modelName,
  /** Variant of the base that it was compiled for. */
  variant: z.string(),
  tool: z.string(),
  /** SHA-256 of the file that it was compiled from. */
  source: sha256Hex,
  /** The largest rank of a module. */
  rank: z.int().min(1),
  modules: z.array(loraModule).min(1),
  /** The file of factors. */
  factors: z.string(),
  /** Update graphs by the type of the factors and the storage type of the weight. */
  graphs: z.record(z.enum(FACTOR_DTYPES), z.record(z.enum(UPDATED_DTYPES), z.string())),
  files: z.record(z.string(), z.strictObject({ bytes: count, sha256: sha256Hex })),
})
export type LoraManifest = z.infer<typeof loraManifest>

/** A compiled adapter on disk; `digest` is the SHA-256 of its manifest.json. */
export type LoraPackage = { directory: string; manifest: LoraManifest; digest: string }

/** Version of the fields below and of the graphs of a ControlNet. A package with another version is refused. */
export const CONTROLNET_FORMAT = 2

/** The kind of control image that a ControlNet was trained on, which determines the scale of its pixels. */
export const CONTROL_TYPES = ['blur', 'canny', 'depth', 'other'] as const
export type ControlType = (typeof CONTROL_TYPES)[number]

/** manifest.json of a ControlNet, which guides every package whose denoiser has its width, its channels and its pooled width. */
export const controlnetManifest = z.strictObject({
  kind: z.literal('controlnet'),
  format: z.literal(CONTROLNET_FORMAT, {
    error: ({ input }) =>
      `the format is ${String(JSON.stringify(input)).slice(0, 20)} and this version reads ${CONTROLNET_FORMAT}; ` +
      'compile the ControlNet again with `npm run compile -- --controlnet`',
  }),
  /** ID for requests. */
  name: modelName,
  type: z.enum(CONTROL_TYPES),
  tier: z.enum(TIERS),
  /** Target of compatible packages. */
  target: z.enum(TARGETS),
  tool: z.string(),
  /** SHA-256 of the checkpoint's tensors in the order of compilation. */
  source: sha256Hex,
  /** `layers`: its blocks; each outputs a residual. */
  shape: z.strictObject({
    layers: z.int().min(1),
    width: count,
    channels: count,
    patch_size: count,
    pooled_width: count,
  }),
  networks: z.strictObject({ control_conditioning: network, control: network }),
  /** For target cuda-fp8: the graph `control` for GPUs without support for our kernels. */
  without_kernels: z.strictObject({ control: network }).optional(),
  weights: z.record(z.string(), z.array(storedTensor)),
  files: z.record(z.string(), z.strictObject({ bytes: count, sha256: sha256Hex })),
})
export type ControlnetManifest = z.infer<typeof controlnetManifest>

/** A compiled ControlNet on disk; `digest` is the SHA-256 of its manifest.json. */
export type ControlnetPackage = { directory: string; manifest: ControlnetManifest; digest: string }
