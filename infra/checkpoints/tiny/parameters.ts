// Parameters of a tiny network: name, shape and distribution of values.
import type { NamedTensor } from '../write-safetensors.ts'

export type Parameter = {
  name: string
  shape: readonly number[]
  mean: number
  deviation: number
  /** A 3×3 convolution whose taps share one random channel mixing, weighted by a blur, so that images are smooth. */
  blur?: boolean
  /** Values that are not random. */
  table?: Float32Array
}

const countElements = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1)

/** `name.weight` [rows, columns] with deviation `gain`/√columns, and `name.bias` unless `bias` is 0. */
export function linear(name: string, columns: number, rows: number, gain = 1, bias = 0.2): Parameter[] {
  const weight = { name: `${name}.weight`, shape: [rows, columns], mean: 0, deviation: gain / Math.sqrt(columns) }
  return bias === 0 ? [weight] : [weight, { name: `${name}.bias`, shape: [rows], mean: 0, deviation: bias }]
}

/** A convolution's weight [outputs, inputs, side, side] and bias. */
export function createConvolution(
  name: string,
  inputs: number,
  outputs: number,
  side: number,
  blur = false,
): Parameter[] {
  const deviation = blur ? 1 / Math.sqrt(inputs) : 1 / Math.sqrt(inputs * side * side)
  return [
    { name: `${name}.weight`, shape: [outputs, inputs, side, side], mean: 0, deviation, blur },
    { name: `${name}.bias`, shape: [outputs], mean: 0, deviation: 0.2 },
  ]
}

/** The gain of a norm, about 1, and optionally its bias. */
export function norm(name: string, width: number, biased: boolean): Parameter[] {
  const weight = { name: `${name}.weight`, shape: [width], mean: 1, deviation: 0.2 }
  return biased ? [weight, { name: `${name}.bias`, shape: [width], mean: 0, deviation: 0.2 }] : [weight]
}

/** A table of `rows` vectors. */
export function embedding(name: string, rows: number, width: number, deviation: number): Parameter[] {
  return [{ name, shape: [rows, width], mean: 0, deviation }]
}

/** Draws a parameter's values. They depend only on `seed` and the name of the parameter, not on order or machine. */
export function draw(parameter: Parameter, seed: string): NamedTensor {
  const { name, shape, mean, deviation, blur, table } = parameter
  const data = table ?? new Float32Array(countElements(shape))
  if (table) return { name, shape, data }
  const next = normal(`${seed}/${name}`)
  if (blur) drawBlur(data, deviation, next)
  else for (let i = 0; i < data.length; i++) data[i] = mean + deviation * next()
  return { name, shape, data }
}

const BLUR = [1, 2, 1, 2, 4, 2, 1, 2, 1].map((tap) => tap / 16)

function drawBlur(data: Float32Array, deviation: number, next: () => number): void {
  for (let i = 0; i < data.length; i += BLUR.length) {
    const mixing = next()
    for (const [tap, weight] of BLUR.entries()) data[i + tap] = deviation * weight * (mixing + 0.5 * next())
  }
}

/** Approximately normal numbers of mean 0 and deviation 1, as sums of four 16-bit uniforms in integer arithmetic. */
function normal(seed: string): () => number {
  const next = createIntegerGenerator(hash(seed))
  const scale = Math.sqrt(3) / 65536
  return () => {
    const a = next()
    const b = next()
    return ((a & 0xffff) + (a >>> 16) + (b & 0xffff) + (b >>> 16) - 131070) * scale
  }
}

/** FNV-1a over the UTF-16 units. */
function hash(text: string): number {
  let state = 0x811c9dc5
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x01000193)
  return state >>> 0
}

/** mulberry32: 32-bit integers from a 32-bit seed. */
function createIntegerGenerator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return (t ^ (t >>> 14)) >>> 0
  }
}
