// Arithmetic and memory traffic of an operator call, and its throughput relative to the peak of a GPU.
import { computeTensorBytes, countElements } from '../../../gpu-fn/dtype.ts'
import type { Call } from './calls.ts'

/** `bytes`: memory traffic if each input is read once and each output written once. `products`: FLOPs of FP8 matrix products. */
export type Work = { readonly bytes: number; readonly products: number }
/** Peak dense FP8 throughput in TFLOP/s, and memory bandwidth in TB/s. */
export type Peaks = readonly [fp8: number, bandwidth: number]
export type Rate = { readonly value: number; readonly unit: 'TFLOP/s' | 'TB/s' }

/** Data sheet values by substring of the GPU name, most specific first. */
const PEAKS: readonly (readonly [name: string, peaks: Peaks])[] = [
  ['H200', [1979, 4.8]],
  ['H100 PCIe', [1513, 2]],
  ['H100 NVL', [1671, 3.9]],
  ['H100', [1979, 3.35]],
  ['L40S', [733, 0.864]],
  ['B200', [4500, 8]],
]
/** Indices of inputs without significant traffic: only the shape is read, or a small part of the modulation vector of all blocks. */
const UNREAD: Record<string, readonly number[]> = { ModulateQuantize: [1, 5], QuantizeParts: [1], Attention: [4, 5] }
/** Inputs per product of a Linear node: codes, scales, weight, weight scales, bias. */
const LINEAR_INPUTS = 5

/** Peaks by GPU name; undefined for an unknown GPU. */
export const peaksOf = (gpu: string): Peaks | undefined => PEAKS.find(([name]) => gpu.includes(name))?.[1]

export function workOf(call: Call): Work {
  const read = call.inputs.filter((_, index) => !UNREAD[call.op]?.includes(index))
  const tensors = [...read, ...call.outputs].filter((tensor) => tensor !== null)
  const bytes = tensors.reduce((sum, { dtype, shape }) => sum + computeTensorBytes(dtype, shape), 0)
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

/** FLOPs per second, or bytes per second for an operator without matrix products. */
export function rateOf({ bytes, products }: Work, microseconds: number): Rate {
  return products > 0
    ? { value: products / microseconds / 1e6, unit: 'TFLOP/s' }
    : { value: bytes / microseconds / 1e6, unit: 'TB/s' }
}

/** Roofline time (the larger of compute and memory time at the GPU's peaks) divided by the measured time. */
export function peakShareOf({ bytes, products }: Work, microseconds: number, [fp8, bandwidth]: Peaks) {
  const ideal = Math.max(products / fp8, bytes / bandwidth) / 1e6
  return ideal / microseconds
}
