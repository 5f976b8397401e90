// The strength of a LoRA's modules: alpha tensors, PEFT's configuration, and what trainers write into a file's metadata.
import { stat } from 'node:fs/promises'
import path from 'node:path'
import type { Manifest } from '../../manifest.ts'
import { CheckpointError, quote } from '../checkpoint/error.ts'
import { type ParameterDtype, toFloat32 } from '../checkpoint/formats/dtype.ts'
import { readSmallFile } from '../checkpoint/formats/file-kind.ts'
import { isRecord, parseObject } from '../checkpoint/formats/json.ts'
import { readBytes } from '../checkpoint/formats/read-tensor.ts'
import type { SafetensorsFile, TensorInfo } from '../checkpoint/formats/safetensors.ts'
import type { FileModule } from './lora.ts'

const CONFIGURATION_BYTES = 1_000_000
const JSON_LIMITS = { depth: 6, commas: 20_000 }

/** Throws CheckpointError for LoRAs of SD3 Medium, whose names and shapes are those of SD3.5 Medium. */
export function refuseOtherBase({ file, metadata }: SafetensorsFile, { variant }: Manifest): void {
  const architecture = metadata.get('modelspec.architecture') ?? ''
  if (!/^stable-diffusion-3-medium\b/.test(architecture)) return
  throw new CheckpointError(file, `was trained for ${quote(architecture)} by its metadata, not for ${variant} of SD3.5`)
}

/**
 * The scale of each module: alpha ÷ rank if it has an alpha tensor; otherwise the scale in PEFT's configuration, which is in the metadata
 * (diffusers) or in adapter_config.json beside the file; otherwise 1.
 */
export async function readLoraScales(header: SafetensorsFile): Promise<{ of(module: FileModule): number }> {
  const configuration = await readConfiguration(header)
  const isSplit = hasSplitQkv(header)
  return {
    of({ module, rank, alpha, target }) {
      if (!alpha) return configuration ? scaleOf(header.file, configuration, module, rank) : 1
      const value = readAlpha(header.file, alpha)
      // With `split_qkv`, kohya trains three LoRAs of a third of the rank, and stores them as one module with the alpha of a single one.
      const fused = isSplit && /\.qkv\.weight$/.test(target.weight) && target.rows[1] === target.shape[0]
      return value === 0 ? 1 : (value * (fused ? 3 : 1)) / rank
    },
  }
}

/** sd-scripts networks/lora_sd3.py: `split_qkv` of the arguments. */
function hasSplitQkv({ metadata }: SafetensorsFile): boolean {
  return /"split_qkv"\s*:\s*"?true"?/i.test(metadata.get('ss_network_args')?.slice(0, 10_000) ?? '')
}

function readAlpha(file: string, info: TensorInfo): number {
  const { name, dtype, shape } = info
  if (!['F64', 'F32', 'F16', 'BF16'].includes(dtype) || shape.some((dim) => dim !== 1))
    throw new CheckpointError(file, `${quote(name)} is [${shape.join(', ')}] of ${dtype}; an alpha is one float`)
  const value = new Float32Array(1)
  toFloat32(readBytes(info), dtype as ParameterDtype, 1, value)
  if (Number.isFinite(value[0]) && value[0]! >= 0) return value[0]!
  throw new CheckpointError(file, `${quote(name)} is ${value[0]}; an alpha is a number from 0`)
}

type Configuration = Readonly<Record<string, unknown>>

/** PEFT's LoraConfig, by component of the pipeline (`transformer.r`) in the metadata of diffusers. */
async function readConfiguration({ file, metadata }: SafetensorsFile): Promise<Configuration | undefined> {
  const given = metadata.get('lora_adapter_metadata')
  if (given !== undefined) return parseObject(file, Buffer.from(given), JSON_LIMITS)
  const beside = path.join(path.dirname(file), 'adapter_config.json')
  if (!(await stat(beside).catch(() => null))) return undefined
  const flat = parseObject(beside, await readSmallFile(beside, CONFIGURATION_BYTES), JSON_LIMITS)
  return Object.fromEntries(Object.entries(flat).map(([key, value]) => [`base_model.model.${key}`, value]))
}

/** peft tuners/lora/layer.py `LoraLayer.update_layer`: alpha ÷ rank, or alpha ÷ √rank with `use_rslora`. */
function scaleOf(file: string, configuration: Configuration, module: string, rank: number): number {
  const component = ['base_model.model.', 'transformer.', 'text_encoder_2.', 'text_encoder_3.', 'text_encoder.'].find(
    (prefix) => module.startsWith(prefix),
  )
  if (!component) return 1
  const of = (key: string) => configuration[component + key]
  if (of('use_dora') === true)
    throw new CheckpointError(file, `is a DoRA (use_dora of ${component.slice(0, -1)}), which is not supported`)
  const name = module.slice(component.length)
  const alpha = patternOf(of('alpha_pattern'), name) ?? of('lora_alpha')
  if (alpha === undefined) return 1
  if (typeof alpha !== 'number' || !Number.isFinite(alpha))
    throw new CheckpointError(
      file,
      `lora_alpha of ${quote(module)} is ${quote(JSON.stringify(alpha))}; it must be a number`,
    )
  return alpha / (of('use_rslora') === true ? Math.sqrt(rank) : rank)
}

/** The value of the first key that matches the module: after `^` its whole name, otherwise its whole name or the end of it. */
function patternOf(patterns: unknown, module: string): unknown {
  if (!isRecord(patterns)) return undefined
  const key = Object.keys(patterns).find((pattern) => {
    const name = pattern.replace(/^\^/, '').replaceAll('\\.', '.')
    return pattern.startsWith('^') ? module === name : module === name || module.endsWith(`.${name}`)
  })
  return key === undefined ? undefined : patterns[key]
}
