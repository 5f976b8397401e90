// Quantized formats that the compiler does not support, by the names and dtypes of their tensors.
import { CheckpointError, quote } from '../error.ts'
import type { TensorInfo } from './safetensors.ts'

const SIGNATURES: readonly (readonly [pattern: RegExp, format: string])[] = [
  [/\.quant_state\.bitsandbytes__nf4$/, 'bitsandbytes NF4'],
  [/\.quant_state\.bitsandbytes__fp4$/, 'bitsandbytes FP4'],
  [/\.weight\.(absmax|quant_map)$/, 'bitsandbytes 4-bit'],
  [/\.SCB$/, 'bitsandbytes int8'],
  [/\.(wscales|wcscales|smooth_factor)$/, 'SVDQuant (nunchaku)'],
  [/\.(qweight|qzeros)$/, 'GPTQ or AWQ'],
  [/\.(weight_scale_2|_weight_per_tensor_scale|weight_quantizer\._double_scale)$/, 'nvfp4'],
  [/(\.pre_quant_scale|_quantizer\._pre_quant_scale)$/, 'AWQ or SmoothQuant'],
  [/\.weight\._shift$/, 'quanto int4 or int2'],
  [/\.weight_scale_inv$/, 'FP8 with a scale per block'],
]

/** Throws CheckpointError if a tensor belongs to an unsupported format. */
export function refuseOtherFormats(tensors: ReadonlyMap<string, TensorInfo>): void {
  for (const [pattern, format] of SIGNATURES)
    for (const [name, info] of tensors) if (pattern.test(name)) throw refuseFormat(info, format)
}

/** The format of weights with these dtypes of codes and scales; undefined for all other tensors. */
export function formatOfDtypes(codes: string, scale?: string): string | undefined {
  if (scale === 'F8_E8M0') return codes === 'F8_E4M3' || codes === 'F8_E5M2' ? 'mxfp8' : 'mxfp4'
  if (scale === 'F8_E4M3') return 'nvfp4'
  if (codes === 'I8') return 'int8'
  return codes === 'U8' || codes === 'F4' ? 'a 4-bit format' : undefined
}

export function refuseFormat({ file, name }: TensorInfo, format: string): CheckpointError {
  return new CheckpointError(
    file,
    `tensor ${quote(name)} belongs to weights in ${format}, which the compiler does not support; ` +
      'use a file with BF16, F16 or FP8 weights, or a GGUF file',
  )
}
