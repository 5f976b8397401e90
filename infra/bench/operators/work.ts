// The work of an operator's call, and its rate relative to the peaks of a GPU.
import { countElements, tensorBytes } from '../../../gpu-fn/dtype.ts'
import type { Call } from './calls.ts'

/** `bytes`: each input read and each output written once. `products`: operations of products of FP8 codes. */
export type Work = { readonly bytes: number; readonly products: number }
/** Dense TFLOP/s of FP8, and TB/s. */
export type Peaks = readonly [fp8: number, bandwidth: number]
export type Rate = { readonly value: number; readonly unit: 'TFLOP/s' | 'TB/s' }

/** By a part of the GPU's name, the most specific first; from the vendor's data sheets. */
const PEAKS: readonly (readonly [name: string, peaks: Peaks])[] = [
  ['H200', [1979, 4.8]],
  ['H100 PCIe', [1513, 2]],
  ['H100 NVL', [1671, 3.9]],
  ['H100', [1979, 3.35]],
  ['L40S', [733, 0.864]],
  ['B200', [4500, 8]],
]
/** Inputs of which an operator reads only the shape, or only a small part: the vector of all blocks' modulations. */
const UNREAD: Record<string, readonly number[]> = { ModulateQuantize: [1, 5], QuantizeParts: [1], Attention: [4, 5] }
/** Inputs of each product of a Linear: codes, scales, weight, weight scales, bias. */
const LINEAR_INPUTS = 5

/** The peaks of a GPU; undefined if its name is unknown. */
export const peaksOf = (gpu: string): Peaks | undefined => PEAKS.find(([name]) => gpu.includes(name))?.[1]

export function workOf(call: Call): Work {
  const read = call.inputs.filter((_, index) => !UNREAD[call.op]?.includes(index))
  const tensors = [...read, ...call.outputs].filter((tensor) => tensor !== null)
  const bytes = tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0)
  if (call.op === 'Linear') {
    const products = call.outputs.map((_, i) => {
      const [codes, weight] = [0, 2].map((at) => call.inputs[i * LINEAR_INPUTS + at]!.shape) as [number[], number[]]
      return 2 * countElements(codes) * weight[0]!
    })
    return { bytes, products: products.reduce((sum, product) => sum + product) }
  }
  if (call.op === 'Attention') {
    const [batch, queries, width] = call.outputs[0]!.shape as [number, number, number]
    const tokens = call.inputs[4]!.shape[1]! + (call.inputs[5]?.shape[1] ?? 0)
    // Queries times keys, then probabilities times values.
    return { bytes, products: 2 * (2 * batch * queries * tokens * width) }
  }
  return { bytes, products: 0 }
}

/** Operations per second, or bytes per second for an operator without products. */
export function rateOf({ bytes, products }: Work, microseconds: number): Rate {
  return products > 0
    ? { value: products / microseconds / 1e6, unit: 'TFLOP/s' }
    : { value: bytes / microseconds / 1e6, unit: 'TB/s' }
}

/** The time at the GPU's peaks, of the products or of the memory accesses, relative to the measured time. */
export function peakShareOf({ bytes, products }: Work, microseconds: number, [fp8, bandwidth]: Peaks) {
  const ideal = Math.max(products / fp8, bytes / bandwidth) / 1e6
  return ideal / microseconds
}
