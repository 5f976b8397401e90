import { describe, expect, it } from 'vitest'
import { readFloat32 } from '../../../../../gpu-fn/compile/checkpoint/formats/read-tensor.ts'
import { openCheckpoint } from '../../../../../gpu-fn/models/sd35/sd35.ts'
import { refusal } from '../../../../support/checkpoints/refusal.ts'
import type { TensorContent } from '../../../../support/checkpoints/safetensors-file.ts'
import { useScratch } from '../../../../support/scratch.ts'

const scratch = useScratch()
const { write } = scratch

const LAYER = 'model.diffusion_model.joint_blocks.0.x_block.mlp.fc1'
const WEIGHT = 'joint_blocks.0.x_block.mlp.fc1.weight'

const createFloats = (shape: number[], ...values: number[]): TensorContent => ({
  dtype: 'F32',
  shape,
  data: new Uint8Array(Float32Array.from(values).buffer),
})
const createHalves = (shape: number[], ...values: number[]): TensorContent => ({
  dtype: 'F16',
  shape,
  data: new Uint8Array(Float16Array.from(values).buffer),
})
const createBfloats = (shape: number[], ...values: number[]): TensorContent => ({
  dtype: 'BF16',
  shape,
  data: new Uint8Array(Uint16Array.from(new Uint32Array(Float32Array.from(values).buffer), (v) => v >>> 16).buffer),
})
const encodeJson = (value: unknown): TensorContent => {
  const data = Buffer.from(JSON.stringify(value))
  return { dtype: 'U8', shape: [data.length], data }
}
/** The codes of 1, 2, 3 and 4. */
const codes: TensorContent = { dtype: 'F8_E4M3', shape: [2, 2], data: Uint8Array.of(0x38, 0x40, 0x44, 0x48) }

const createLayer = (suffixes: Record<string, TensorContent>) =>
  Object.fromEntries(Object.entries(suffixes).map(([suffix, stored]) => [LAYER + suffix, stored]))
const refuse = async (suffixes: Record<string, TensorContent>) =>
  refusal(openCheckpoint([await write('x.safetensors', createLayer(suffixes))]))

async function readValues(file: string): Promise<number[]> {
  const { networks } = await openCheckpoint([file])
  const [tensor, ...others] = networks.transformer!.values()
  expect(others).toEqual([])
  expect(tensor!.name).toBe(WEIGHT)
  return [...readFloat32({ tensor: tensor!, start: 0, end: 2, columns: 2 })]
}

describe('FP8 with scales', () => {
  it.each<[source: string, tensors: Record<string, TensorContent>, values: number[]]>([
    [
      'ComfyUI until 2025',
      { '.weight': codes, '.scale_weight': createFloats([], 0.5), '.scale_input': createFloats([], 1) },
      [0.5, 1, 1.5, 2],
    ],
    [
      'ComfyUI, codes in U8',
      {
        '.weight': { ...codes, dtype: 'U8' },
        '.weight_scale': createFloats([], 0.5),
        '.input_scale': createFloats([], 3),
        '.comfy_quant': encodeJson({ format: 'float8_e4m3fn', full_precision_matrix_mult: true }),
      },
      [0.5, 1, 1.5, 2],
    ],
    [
      'ComfyUI, E5M2 in U8',
      {
        '.weight': { dtype: 'U8', shape: [2, 2], data: Uint8Array.of(0x3c, 0x40, 0xc4, 0x01) },
        '.weight_scale': createFloats([], 2),
        '.comfy_quant': encodeJson({ format: 'float8_e5m2' }),
      },
      [2, 4, -8, 2 ** -15],
    ],
    ['a plain cast', { '.weight': codes }, [1, 2, 3, 4]],
    ['a scale in F16', { '.weight': codes, '.weight_scale': createHalves([1], 0.25) }, [0.25, 0.5, 0.75, 1]],
    ['a scale in BF16', { '.weight': codes, '.weight_scale': createBfloats([1, 1], 0.25) }, [0.25, 0.5, 0.75, 1]],
    ['a scale per row', { '.weight': codes, '.weight_scale': createFloats([2], 2, 0.5) }, [2, 4, 1.5, 2]],
    ['a column of scales', { '.weight': codes, '.weight_scale': createHalves([2, 1], 2, 0.5) }, [2, 4, 1.5, 2]],
    ['torchao', { '._weight_qdata': codes, '._weight_scale': createFloats([2, 1], 2, 0.5) }, [2, 4, 1.5, 2]],
    [
      'quanto',
      {
        '.weight._data': codes,
        '.weight._scale': createBfloats([2, 1], 2, 0.5),
        '.input_scale': createBfloats([], 1),
        '.output_scale': createBfloats([], 1),
      },
      [2, 4, 1.5, 2],
    ],
    [
      'ModelOpt in diffusers',
      {
        '.weight': codes,
        '.weight_quantizer._scale': createFloats([], 0.5),
        '.weight_quantizer._amax': createFloats([], 224),
        '.input_quantizer._amax': createFloats([], 7),
      },
      [0.5, 1, 1.5, 2],
    ],
  ])('reads %s', async (_, tensors, values) => {
    expect(await readValues(await write('x.safetensors', createLayer(tensors)))).toEqual(values)
  })

  it.each([LAYER, 'another.layer'])('reads the formats of layers in the metadata (%s)', async (named) => {
    const layers = { [named]: { format: 'float8_e4m3fn' } }
    const metadata = { _quantization_metadata: JSON.stringify({ format_version: '1.0', layers }) }
    const stored: TensorContent = { ...codes, dtype: 'U8' }
    const file = await write(
      'x.safetensors',
      createLayer({ '.weight': stored, '.weight_scale': createFloats([], 2) }),
      metadata,
    )
    if (named === LAYER) expect(await readValues(file)).toEqual([2, 4, 6, 8])
    else expect(await refusal(openCheckpoint([file]))).toMatch('belongs to weights in a 4-bit format')
  })

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])('refuses a scale of %d', async (value) => {
    for (const scale of [createFloats([], value), createFloats([2, 1], 1, value)]) {
      expect(await refuse({ '.weight': codes, '.weight_scale': scale })).toMatch('must be positive and finite')
    }
  })

  it.each<[what: string, tensors: Record<string, TensorContent>, message: string | RegExp]>([
    ['a scale of another type', { '.weight': codes, '.scale_weight': { dtype: 'F64', shape: [] } }, 'not F64 [] for'],
    [
      'a scale per column',
      { '.weight': codes, '.weight_scale': createFloats([1, 2], 1, 1) },
      'not F32 [1, 2] for [2, 2]',
    ],
    ['scales per block', { '.weight': codes, '.weight_scale': createFloats([2, 2], 1, 1, 1, 1) }, 'not F32 [2, 2] for'],
    [
      'a scale without a weight',
      { '.bias': codes, '.scale_weight': createFloats([], 1) },
      /there is no "joint_blocks.*weight"/,
    ],
    [
      'two scales',
      { '.weight': codes, '.scale_weight': createFloats([], 1), '.weight_scale': createFloats([], 1) },
      'is a scale of the same weight',
    ],
    [
      'a range without a scale',
      { '.weight': codes, '.weight_quantizer._amax': createFloats([], 1) },
      'its FP8 weight has no scale',
    ],
    ['two weights', { '.weight': codes, '.weight._data': codes }, 'two tensors are "joint_blocks'],
  ])('refuses %s', async (_, tensors, message) => {
    expect(await refuse(tensors)).toMatch(message)
  })
})

describe('other quantized formats', () => {
  const bytes: TensorContent = { dtype: 'U8', shape: [2, 2] }
  const integers: TensorContent = { dtype: 'I8', shape: [2, 2] }
  const format = (name: string) => ({ '.weight': bytes, '.comfy_quant': encodeJson({ format: name }) })

  it.each<[name: string, tensors: Record<string, TensorContent>]>([
    ['"nvfp4"', format('nvfp4')],
    ['"mxfp8"', format('mxfp8')],
    ['"int8_tensorwise"', format('int8_tensorwise')],
    ['"svdquant_w4a4"', format('svdquant_w4a4')],
    ['"toString"', format('toString')],
    [
      'nvfp4',
      {
        '.weight': bytes,
        '.weight_scale': { dtype: 'F8_E4M3', shape: [2, 1] },
        '.weight_scale_2': createFloats([], 1),
      },
    ],
    ['nvfp4', { '._weight_qdata': { dtype: 'F4', shape: [2, 2] }, '._weight_per_tensor_scale': createFloats([], 1) }],
    ['mxfp8', { '._weight_qdata': codes, '._weight_scale': { dtype: 'F8_E8M0', shape: [2, 1] } }],
    ['int8', { '.weight': integers, '.weight_scale': createFloats([], 1) }],
    ['int8', { '._weight_qdata': integers, '._weight_scale': createFloats([2, 1], 1, 1) }],
    ['int8', { '.weight._data': integers, '.weight._scale': createFloats([2, 1], 1, 1) }],
    [
      'quanto int4 or int2',
      { '.weight._data': bytes, '.weight._scale': createFloats([], 1), '.weight._shift': createFloats([], 1) },
    ],
    ['bitsandbytes int8', { '.weight': integers, '.SCB': createFloats([2], 1, 1) }],
    ['bitsandbytes NF4', { '.weight': bytes, '.weight.quant_state.bitsandbytes__nf4': encodeJson({}) }],
    ['SVDQuant (nunchaku)', { '.qweight': integers, '.wscales': createFloats([2], 1, 1) }],
    ['GPTQ or AWQ', { '.qweight': { dtype: 'I32', shape: [2] }, '.scales': createFloats([2], 1, 1) }],
    [
      'a rotated format ("convrot")',
      { '.weight': codes, '.comfy_quant': encodeJson({ format: 'float8_e4m3fn', convrot: true }) },
    ],
  ])('are named in the refusal: %s', async (name, tensors) => {
    const message = await refuse(tensors)
    expect(message).toContain(`belongs to weights in ${name}, which the compiler does not support`)
    expect(message).toContain('use a file with BF16, F16 or FP8 weights')
  })

  it('are refused with a malformed description', async () => {
    expect(await refuse({ '.weight': bytes, '.comfy_quant': encodeJson([1]) })).toMatch('the JSON must begin with "{"')
    expect(await refuse({ '.weight': bytes, '.comfy_quant': encodeJson({ format: 8 }) })).toMatch(
      'format is not a string',
    )
    const large: TensorContent = { dtype: 'U8', shape: [5000] }
    expect(await refuse({ '.weight': bytes, '.comfy_quant': large })).toMatch('at most 4096 values of U8')
    const metadata = { _quantization_metadata: '{"layers":{"a":{}}}' }
    const file = await write('x.safetensors', createLayer({ '.weight': codes }), metadata)
    expect(await refusal(openCheckpoint([file]))).toMatch('"a" has no format')
  })
})
