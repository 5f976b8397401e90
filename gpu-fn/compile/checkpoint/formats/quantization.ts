// FP8 weights with scales, as ComfyUI, NVIDIA ModelOpt, torchao and quanto store them: `weight = codes × scale`, with one scale per matrix or
// per row. Scales of activations are not read, because they are computed at run time. Other quantized formats are refused by name.
import { CheckpointError, quote } from '../error.ts'
import type { Tensor } from '../tensor.ts'
import { BLOCKS, type ParameterDtype, type Scale, toFloat32 } from './dtype.ts'
import { parseObject } from './json.ts'
import { closeFiles, readBytes } from './read-tensor.ts'
import type { TensorInfo } from './safetensors.ts'
import { formatOfDtypes, refuseFormat, refuseOtherFormats } from './unsupported-formats.ts'

/** The suffixes of a layer's tensors. */
type Convention = { readonly codes: string; readonly scale: string; readonly source: string }

const CONVENTIONS: readonly Convention[] = [
  { codes: '.weight', scale: '.scale_weight', source: 'ComfyUI until 2025 (comfy/ops.py)' },
  { codes: '.weight', scale: '.weight_scale', source: 'ComfyUI (comfy/ops.py); ModelOpt (torch/export)' },
  { codes: '.weight', scale: '.weight_quantizer._scale', source: 'ModelOpt in diffusers (TensorQuantizer)' },
  { codes: '._weight_qdata', scale: '._weight_scale', source: 'torchao (Float8Tensor)' },
  { codes: '.weight._data', scale: '.weight._scale', source: 'quanto (WeightQBytesTensor)' },
]

/**
 * Tensors without influence on the weights: scales of activations, ranges from which scales were computed, and names of formats that the
 * dtypes state as well.
 */
const SKIPPED = /(\.(scale_input|input_scale|output_scale|comfy_quant)|_quantizer\._amax|(^|\.)scaled_fp8)$/

/** Format names of ComfyUI and ModelOpt for FP8 codes, which may be stored as U8. */
const FP8_FORMATS: Readonly<Record<string, ParameterDtype>> = {
  float8_e4m3fn: 'F8_E4M3',
  fp8: 'F8_E4M3',
  float8_e5m2: 'F8_E5M2',
}

const LIMITS = { scaleBytes: 64_000_000, formatBytes: 4096 } as const

/** The parameters of a network under the names of their layers, with their scales. Throws CheckpointError. */
export function readParameters(file: string, tensors: ReadonlyMap<string, TensorInfo>): Map<string, Tensor> {
  refuseOtherFormats(tensors)
  try {
    return foldScales(file, tensors)
  } finally {
    closeFiles()
  }
}

function foldScales(file: string, tensors: ReadonlyMap<string, TensorInfo>): Map<string, Tensor> {
  const parameters = new Map<string, Tensor>()
  const scales = new Map<string, TensorInfo>()
  for (const [name, info] of tensors) {
    assertHasScale(name, info, tensors)
    if (SKIPPED.test(name)) continue
    const scaled = CONVENTIONS.find(({ scale }) => name.endsWith(scale))
    if (scaled) addScale(scales, tensors, name, info, scaled)
    else {
      const parameter = parseParameterName(name)
      if (parameters.has(parameter)) throw new CheckpointError(file, `two tensors are ${quote(parameter)}`)
      parameters.set(parameter, toTensor(parameter, info, formatOf(name, info, tensors)))
    }
  }
  let bytes = 0
  for (const [name, info] of scales) {
    bytes += info.bytes
    if (bytes > LIMITS.scaleBytes) throw new CheckpointError(file, `has more than ${LIMITS.scaleBytes} bytes of scales`)
    const tensor = parameters.get(name)!
    parameters.set(name, { ...tensor, parts: [{ ...tensor.parts[0]!, scale: readScale(info, tensor) }] })
  }
  return parameters
}

/** `layer.weight` for the codes of every convention. */
function parseParameterName(name: string): string {
  const found = CONVENTIONS.find(({ codes }) => codes !== '.weight' && name.endsWith(codes))
  return found ? `${name.slice(0, -found.codes.length)}.weight` : name
}

function addScale(
  scales: Map<string, TensorInfo>,
  tensors: ReadonlyMap<string, TensorInfo>,
  name: string,
  info: TensorInfo,
  { codes, scale }: Convention,
): void {
  const layer = name.slice(0, -scale.length)
  const fail = (problem: string) => new CheckpointError(info.file, `tensor ${quote(info.name)}: ${problem}`)
  if (!tensors.has(layer + codes)) throw fail(`there is no ${quote(layer + codes)} to scale`)
  const earlier = scales.get(`${layer}.weight`)
  if (earlier) throw fail(`${quote(earlier.name)} is a scale of the same weight`)
  scales.set(`${layer}.weight`, info)
}

/**
 * Throws CheckpointError for FP8 codes with a range but without the scale that ModelOpt derives from it: without the scale, the weights
 * would be wrong.
 */
function assertHasScale(name: string, info: TensorInfo, tensors: ReadonlyMap<string, TensorInfo>): void {
  const [, layer] = /^(.+)\.weight_quantizer\._amax$/.exec(name) ?? []
  if (layer === undefined || !tensors.get(`${layer}.weight`)?.dtype.startsWith('F8_')) return
  if (CONVENTIONS.some(({ scale }) => tensors.has(layer + scale))) return
  throw new CheckpointError(
    info.file,
    `tensor ${quote(info.name)}: its FP8 weight has no scale; export it with ModelOpt`,
  )
}

/** The dtype of a weight's codes as stated by the file; undefined if it states none. Throws CheckpointError for other formats. */
function formatOf(
  name: string,
  info: TensorInfo,
  tensors: ReadonlyMap<string, TensorInfo>,
): ParameterDtype | undefined {
  if (!name.endsWith('.weight')) return undefined
  const mark = tensors.get(`${name.slice(0, -'.weight'.length)}.comfy_quant`)
  const format = mark ? readFormat(mark) : info.format
  if (format === undefined) return undefined
  if (!Object.hasOwn(FP8_FORMATS, format)) throw refuseFormat(info, quote(format))
  return FP8_FORMATS[format]
}

/** The format in a `comfy_quant` tensor: JSON as UTF-8 bytes. */
function readFormat(mark: TensorInfo): string | undefined {
  const { file, name, dtype, bytes } = mark
  const fail = (problem: string) => new CheckpointError(file, `tensor ${quote(name)}: ${problem}`)
  if (dtype !== 'U8' || bytes > LIMITS.formatBytes)
    throw fail(`must be at most ${LIMITS.formatBytes} values of U8, not ${bytes} bytes of ${dtype}`)
  const content = parseObject(`${file}, tensor ${quote(name)}`, readBytes(mark), { depth: 3, commas: 100 })
  if (content.convrot) throw refuseFormat(mark, 'a rotated format ("convrot")')
  if (content.format !== undefined && typeof content.format !== 'string') throw fail('its format is not a string')
  return content.format
}

function toTensor(name: string, info: TensorInfo, format: ParameterDtype | undefined): Tensor {
  const { shape, file, offset, bytes } = info
  const dtype = format && info.dtype === 'U8' ? format : info.dtype
  if (isParameterDtype(dtype)) return { name, shape, parts: [{ file, offset, bytes, dtype, scale: 1 }] }
  const quantized = formatOfDtypes(dtype)
  if (quantized && shape.length > 1) throw refuseFormat(info, quantized)
  const allowed = Object.keys(BLOCKS).join(', ')
  throw new CheckpointError(
    file,
    `tensor ${quote(info.name)}: parameters of dtype ${dtype} cannot be compiled; ${allowed} can`,
  )
}

function isParameterDtype(dtype: string): dtype is ParameterDtype {
  return Object.hasOwn(BLOCKS, dtype)
}

function readScale(info: TensorInfo, { shape, parts }: Tensor): Scale {
  const fail = (problem: string) => new CheckpointError(info.file, `tensor ${quote(info.name)}: ${problem}`)
  const { dtype } = info
  const count = info.shape.reduce((product, axis) => product * axis, 1)
  const quantized = formatOfDtypes(parts[0]!.dtype, dtype)
  if (quantized) throw refuseFormat(info, quantized)
  const perRow = shape.length > 1 && info.shape[0] === shape[0] && count === shape[0]
  if ((dtype !== 'F32' && dtype !== 'F16' && dtype !== 'BF16') || !(count === 1 || perRow)) {
    throw fail(
      `a scale must be one F32, F16 or BF16 number, or one per row, not ${dtype} [${info.shape.join(', ')}] ` +
        `for [${shape.join(', ')}]`,
    )
  }
  const scales = new Float32Array(count)
  toFloat32(readBytes(info), dtype, 1, scales)
  const invalid = scales.find((scale) => !(scale > 0 && scale < Number.POSITIVE_INFINITY))
  if (invalid !== undefined) throw fail(`a scale must be positive and finite, not ${invalid}`)
  return count === 1 ? scales[0]! : scales
}
