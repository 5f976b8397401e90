// The work of an operator's call, and its rate relative to the peaks of a GPU.
import { countElements, tensorBytes } from '../../../gpu-fn/dtype.ts'
import type { Call } from './calls.ts'

/** `bytes`: each input read and each output written once. `fp8` and `half`: operations of products of FP8 codes and of 16-bit numbers. */
export type Work = { readonly bytes: number; readonly fp8: number; readonly half: number }
/** Dense TFLOP/s of FP8 and of 16 bits, and TB/s. */
export type Peaks = readonly [fp8: number, half: number, bandwidth: number]
export type Rate = { readonly value: number; readonly unit: 'TFLOP/s' | 'TB/s' }

/** By a part of the GPU's name, the most specific first; from the vendor's data sheets. */
const PEAKS: readonly (readonly [name: string, peaks: Peaks])[] = [
  ['H200', [1979, 989, 4.8]],
  ['H100 PCIe', [1513, 756, 2]],
  ['H100 NVL', [1671, 835, 3.9]],
  ['H100', [1979, 989, 3.35]],
  ['L40S', [733, 362, 0.864]],
  ['B200', [4500, 2250, 8]],
]
/** Inputs of which an operator reads only the shape, or only a small part: the vector of all blocks' modulations. */
const UNREAD: Record<string, readonly number[]> = { ModulateQuantize: [1], QuantizeParts: [1], Attention: [4, 5] }

/** The peaks of a GPU; undefined if its name is unknown. */
export const peaksOf = (gpu: string): Peaks | undefined => PEAKS.find(([name]) => gpu.includes(name))?.[1]

export function workOf(call: Call): Work {
  const read = call.inputs.filter((_, index) => !UNREAD[call.op]?.includes(index))
  const tensors = [...read, ...call.outputs].filter((tensor) => tensor !== null)
  const bytes = tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0)
  if (call.op === 'Linear') {
    const [rows, columns] = call.inputs[2]!.shape as [number, number]
    const tokens = countElements(call.inputs[0]!.shape) / columns
    return { bytes, fp8: 2 * tokens * rows * columns, half: 0 }
  }
  if (call.op === 'Attention') {
    const [batch, queries, width] = call.outputs[0]!.shape as [number, number, number]
    const tokens = call.inputs[4]!.shape[1]! + (call.inputs[5]?.shape[1] ?? 0)
    // Queries times keys in FP8, then probabilities times values in 16 bits.
    const product = 2 * batch * queries * tokens * width
    return { bytes, fp8: product, half: product }
  }
  return { bytes, fp8: 0, half: 0 }
}

/** Operations per second, or bytes per second for an operator without products. */
export function rateOf({ bytes, fp8, half }: Work, microseconds: number): Rate {
  return fp8 + half > 0
    ? { value: (fp8 + half) / microseconds / 1e6, unit: 'TFLOP/s' }
    : { value: bytes / microseconds / 1e6, unit: 'TB/s' }
}

/** The time at the GPU's peaks, of the products or of the memory accesses, relative to the measured time. */
export function peakShareOf({ bytes, fp8, half }: Work, microseconds: number, [fp8Peak, halfPeak, bandwidth]: Peaks) {
  const ideal = Math.max(fp8 / fp8Peak + half / halfPeak, bytes / bandwidth) / 1e6
  return ideal / microseconds
}
