// The names of SD3.5's weights in LoRA files of every trainer. The table is built from the weights of a package, because names with
// underscores in place of dots cannot be split.
import { countOf } from '../../../compile/checkpoint/layout/rename.ts'
import { type Manifest, shapeOfValues } from '../../../manifest.ts'
import type { LoraNames, LoraTarget } from '../../family.ts'
import { listTransformerModules, placeTransformer } from './diffusers-names.ts'

type Matrices = Map<string, readonly number[]>
type Modules = Map<string, LoraTarget>
type ManifestPart = Pick<Manifest, 'networks' | 'weights' | 'text' | 'target'>

/** Prefixes of names with dots and of names with underscores, by network. PEFT, ai-toolkit, SimpleTuner, ComfyUI, OneTrainer, kohya. */
const PREFIXES: Readonly<Record<string, readonly [dotted: readonly string[], underscored: readonly string[]]>> = {
  transformer: [
    [
      'transformer.',
      'base_model.model.',
      'base_model.model.transformer.',
      'diffusion_model.',
      'model.diffusion_model.',
      '',
    ],
    ['lora_unet_', 'lora_transformer_', 'lycoris_'],
  ],
  clip_l: [
    ['text_encoder.', 'text_encoders.clip_l.transformer.', 'text_encoders.clip_l.'],
    ['lora_te1_', 'lora_te_'],
  ],
  clip_g: [['text_encoder_2.', 'text_encoders.clip_g.transformer.', 'text_encoders.clip_g.'], ['lora_te2_']],
  t5: [['text_encoder_3.', 'text_encoders.t5xxl.transformer.', 'text_encoders.t5xxl.'], ['lora_te3_']],
}

/** Tables that are looked up and not multiplied. */
const TABLES = /embedding|^shared|relative_attention_bias|^pos_embed/

/** The modules of a package that a LoRA may adapt. */
export function createSd35LoraNames(manifest: ManifestPart): LoraNames {
  const targets = new Map<string, LoraTarget>()
  const networks: [string, readonly string[], (matrices: Matrices) => Modules][] = [
    ['transformer', ['conditioning', 'transformer'], findTransformerTargets],
    ...manifest.text.encoders.map(({ name, graphs }): (typeof networks)[number] => [
      name,
      graphs,
      encoderTargets(name),
    ]),
  ]
  for (const [network, graphs, find] of networks) {
    const [dotted, underscored] = PREFIXES[network]!
    for (const [module, target] of find(matricesOf(manifest, graphs))) {
      for (const prefix of dotted) targets.set(prefix + module, target)
      for (const prefix of underscored) targets.set(prefix + module.replaceAll('.', '_'), target)
    }
  }
  return { find: (module) => targets.get(module) }
}

/** The matrices of a network in the checkpoint's shapes. */
function matricesOf({ networks, weights, target }: ManifestPart, graphs: readonly string[]): Matrices {
  const matrices: Matrices = new Map()
  for (const graph of graphs) {
    for (const tensor of weights[networks[graph]?.weights ?? ''] ?? []) {
      const { name } = tensor
      const shape = shapeOfValues(tensor)
      const [, weight, end] = /^(.+\.weight)(?:\[\d+:(\d+)\])?$/.exec(name) ?? []
      if (!weight || shape.length < 2 || TABLES.test(weight)) continue
      const [rows, ...inner] = shape as [number, ...number[]]
      const ordered = inner.length === 3 && target !== 'cpu' ? [inner[2]!, inner[0]!, inner[1]!] : inner
      const known = matrices.get(weight)?.[0] ?? 0
      matrices.set(weight, [Math.max(known, Number(end ?? rows)), ...ordered])
    }
  }
  return matrices
}

function findTransformerTargets(matrices: Matrices): Modules {
  const modules: Modules = new Map()
  const network = 'transformer'
  for (const [weight, shape] of matrices)
    modules.set(weight.slice(0, -'.weight'.length), { network, weight, shape, rows: [0, shape[0]!], swap: false })
  const depth = countOf(matrices, /^joint_blocks\.(\d+)\./)
  const unused = new Set(
    ['attn.proj', 'mlp.fc1', 'mlp.fc2'].map((name) => `joint_blocks.${depth - 1}.context_block.${name}`),
  )
  for (const module of unused) modules.set(module, { unused: LAST_CONTEXT })
  for (const module of listTransformerModules(depth)) {
    const { name: weight, index, count, swap } = placeTransformer(`${module}.weight`, depth)!
    const shape = matrices.get(weight)
    if (shape) {
      const rows = shape[0]! / count
      modules.set(module, { network, weight, shape, rows: [index * rows, (index + 1) * rows], swap })
    } else if (unused.has(weight.slice(0, -'.weight'.length))) modules.set(module, { unused: LAST_CONTEXT })
  }
  // Only keys and values of the last text stream are read.
  const last = `transformer_blocks.${depth - 1}.attn.add_q_proj`
  if (modules.has(last)) modules.set(last, { unused: LAST_CONTEXT })
  return modules
}

const LAST_CONTEXT = 'the text stream ends in the last block'

/** transformers' names; some versions omit `text_model`. */
const encoderTargets =
  (network: string) =>
  (matrices: Matrices): Modules =>
    new Map(
      [...matrices].flatMap(([weight, shape]) => {
        const module = weight.slice(0, -'.weight'.length)
        const target = { network, weight, shape, rows: [0, shape[0]!], swap: false } as const
        return [...new Set([module, module.replace(/^text_model\./, '')])].map((name) => [name, target] as const)
      }),
    )
