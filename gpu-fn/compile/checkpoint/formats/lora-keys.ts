// Keys of LoRA files: a module's name, in the spelling of the trainer, and the tensor's role in the module.
import { CheckpointError, quote } from '../error.ts'

export type LoraPart = 'down' | 'up' | 'alpha'
export type LoraKey = { readonly module: string; readonly part: LoraPart }

/** PEFT; kohya, OneTrainer and LyCORIS; diffusers before PEFT. */
const PARTS: readonly (readonly [suffix: RegExp, part: LoraPart])[] = [
  [
    /\.lora_A(\.default)?(\.weight)?$|\.lora_down\.weight$|[._]lora\.down\.weight$|\.lora_linear_layer\.down\.weight$/,
    'down',
  ],
  [/\.lora_B(\.default)?(\.weight)?$|\.lora_up\.weight$|[._]lora\.up\.weight$|\.lora_linear_layer\.up\.weight$/, 'up'],
  [/\.alpha$/, 'alpha'],
]

const UNSUPPORTED: readonly (readonly [key: RegExp, kind: string])[] = [
  [
    /\.(dora_scale|magnitude|lora_magnitude_vector)(\.default)?(\.weight)?$/,
    'a DoRA, whose magnitudes rescale the whole weight',
  ],
  [/\.hada_\w+$/, 'a LoHa (LyCORIS)'],
  [/\.lokr_\w+$/, 'a LoKr (LyCORIS)'],
  [/\.(oft_\w+|boft_\w+|rescale)(\.weight)?$/, 'an OFT or BOFT adapter'],
  [/\.(a1|a2|b1|b2)\.weight$/, 'a GLoRA (LyCORIS)'],
  [/\.lora_mid\.weight$/, 'a LoCon with a Tucker decomposition (LyCORIS)'],
  [/\.(ia3_l|vera_lambda_\w+|lora_E|lora_embedding_[AB])\b/, 'an adapter of PEFT that is not a LoRA of linear layers'],
  [/\.(lora_[AB](\.default)?\.bias|lora_(up|down)\.bias|diff_b|b_norm)$/, 'an update of a bias'],
  [/\.(diff|set_weight|reshape_weight|w_norm)$/, 'an update of a whole weight'],
  [/^bundle_emb\./, 'a textual inversion, a new word of the text encoders'],
]

/** Splits a key of `file`. Throws CheckpointError for other kinds of adapters, by name, and for keys of no known form. */
export function parseLoraKey(file: string, key: string): LoraKey {
  const unsupported = UNSUPPORTED.find(([pattern]) => pattern.test(key))
  if (unsupported)
    throw new CheckpointError(
      file,
      `${quote(key)} belongs to ${unsupported[1]}. Only plain LoRAs are supported: two low-rank matrices per module`,
    )
  for (const [suffix, part] of PARTS) {
    const match = suffix.exec(key)
    if (match) return { module: parseModuleName(key.slice(0, match.index), match[0]), part }
  }
  throw new CheckpointError(
    file,
    `${quote(key)} is not a key of a LoRA; keys end in .lora_A.weight and .lora_B.weight, or in .lora_down.weight, .lora_up.weight and .alpha`,
  )
}

/** diffusers before PEFT kept the matrices in attention processors, and its `to_out` was a list. */
function parseModuleName(name: string, suffix: string): string {
  const module = name.replace('.processor.', '.')
  return suffix.startsWith('_lora') && module.endsWith('.to_out') ? `${module}.0` : module
}
