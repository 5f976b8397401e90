// Explanations for inputs that are not SD3.5 checkpoints.
import { open, readdir, stat } from 'node:fs/promises'
import path from 'node:path'

const START_BYTES = 512
const HEADER_BYTES = 64 << 20

type Kind = { what: string; advice: string }
const ONLY = 'Only checkpoints of Stable Diffusion 3.5 are served.'

/** By the first bytes of a file. */
const FORMATS: [pattern: RegExp, kind: Kind][] = [
  [
    /^version https:\/\/git-lfs/,
    { what: 'a Git LFS pointer', advice: 'Run `git lfs pull` in its repository, or download the file itself.' },
  ],
  [
    /^\s*<(!doctype|html|head)/i,
    { what: 'an HTML page', advice: 'The download needs a login: use --hub with HF_TOKEN, or a browser.' },
  ],
  [/^GGUF/, { what: 'a GGUF file', advice: 'Use the safetensors files of the same model.' }],
  [/^PK.{28}.*\/data\.pkl/s, { what: 'a PyTorch pickle', advice: 'Use the safetensors files of the same model.' }],
]

/** By the names of tensors. */
const MODELS: [pattern: RegExp, kind: Kind][] = [
  [
    /\.lora_(A|B|up|down)\b|^lora_(unet|te|transformer)/,
    { what: 'a LoRA', advice: 'Pass the checkpoint that it belongs to.' },
  ],
  [/double_blocks\.|single_transformer_blocks\./, { what: 'a FLUX checkpoint', advice: ONLY }],
  [/^conditioner\.embedders\.|add_embedding\.linear_1/, { what: 'an SDXL checkpoint', advice: ONLY }],
  [
    /diffusion_model\.input_blocks\.|^cond_stage_model\./,
    { what: 'a Stable Diffusion 1 or 2 checkpoint', advice: ONLY },
  ],
]
const SD3 = /joint_blocks\.0\.x_block\.attn\.qkv|transformer_blocks\.0\.attn\.add_q_proj/
const QK_NORM = /attn\.(ln_q|norm_q|norm_added_q)/

/** The reason why a file or directory is not an SD3.5 checkpoint, with advice; null if there is no explanation. */
export async function explain(given: string): Promise<string | null> {
  for (const file of await filesOf(given)) {
    const kind = await kindOf(file)
    if (kind) return `${file} is ${kind.what}. ${kind.advice}`
  }
  return null
}

async function filesOf(given: string): Promise<string[]> {
  const found = await stat(given).catch(() => null)
  if (!found) return []
  if (!found.isDirectory()) return [given]
  const names = await readdir(given, { recursive: true })
  return names.filter((name) => /\.(safetensors|gguf|bin)$/.test(name)).map((name) => path.join(given, name))
}

async function kindOf(file: string): Promise<Kind | null> {
  await using handle = await open(file)
  const start = Buffer.alloc(START_BYTES)
  const { bytesRead } = await handle.read(start, 0, START_BYTES, 0)
  const text = start.subarray(0, bytesRead).toString('latin1')
  const format = FORMATS.find(([pattern]) => pattern.test(text))
  if (format) return format[1]
  const bytes = bytesRead < 8 ? 0 : Number(start.readBigUInt64LE())
  if (bytes < 2 || bytes > HEADER_BYTES || bytes > (await handle.stat()).size - 8) return null
  const header = Buffer.alloc(bytes)
  await handle.read(header, 0, bytes, 8)
  return modelOf(namesIn(header.toString()))
}

function namesIn(header: string): string[] {
  try {
    return Object.keys(JSON.parse(header) as object)
  } catch {
    return []
  }
}

function modelOf(names: readonly string[]): Kind | null {
  const model = MODELS.find(([pattern]) => names.some((name) => pattern.test(name)))
  if (model) return model[1]
  const isSd3 = names.some((name) => SD3.test(name)) && !names.some((name) => QK_NORM.test(name))
  return isSd3 ? { what: 'an SD3 Medium checkpoint', advice: 'Use Stable Diffusion 3.5 Medium.' } : null
}
