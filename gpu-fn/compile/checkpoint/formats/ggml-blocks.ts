// The quantized types of ggml (ggml-common.h, ggml-quants.c): blocks of 32 or 256 values with float16 scales. Values are computed in
// float32, as in `dequantize_row_*` of ggml-quants.c and in gguf-py; products of a scale and a code are exact, so that each value is rounded once.

/** Values and bytes of a block. */
export const GGML_BLOCKS = {
  Q4_0: [32, 18],
  Q4_1: [32, 20],
  Q5_0: [32, 22],
  Q5_1: [32, 24],
  Q8_0: [32, 34],
  Q2_K: [256, 84],
  Q3_K: [256, 110],
  Q4_K: [256, 144],
  Q5_K: [256, 176],
  Q6_K: [256, 210],
  IQ4_NL: [32, 18],
  IQ4_XS: [256, 136],
} as const satisfies Record<string, readonly [values: number, bytes: number]>

export type GgmlType = keyof typeof GGML_BLOCKS

/** One block: its bytes from `at` on, its float16 numbers by half the byte offset, and the place of its first value in `out`. */
type Decode = (bytes: Uint8Array, halves: Float16Array, at: number, out: Float32Array, to: number) => void

/** Decodes whole blocks of `type` to float32. `bytes` must start at an even address. */
export function decodeBlocks(type: GgmlType, bytes: Uint8Array, out: Float32Array): void {
  const [values, size] = GGML_BLOCKS[type]
  const halves = new Float16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >> 1)
  const decode = DECODERS[type]
  for (let at = 0, to = 0; at < bytes.byteLength; at += size, to += values) decode(bytes, halves, at, out, to)
}

const toInt8 = (byte: number) => (byte << 24) >> 24

/** The minimum of types without one: x + -0 is x, even for x = -0. */
const NO_MINIMUM = -0

/** Sixteen bytes of two 4-bit codes: the first sixteen values are in the low nibbles. */
function decodeNibbles(
  bytes: Uint8Array,
  at: number,
  out: Float32Array,
  to: number,
  d: number,
  offset: number,
  m: number,
) {
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + j]!
    out[to + j] = d * ((pair & 15) - offset) + m
    out[to + j + 16] = d * ((pair >> 4) - offset) + m
  }
}

/** As `decodeNibbles`, with the fifth bits of the codes in four bytes at `high`. */
function decodeFiveBits(
  bytes: Uint8Array,
  high: number,
  out: Float32Array,
  to: number,
  d: number,
  offset: number,
  m: number,
) {
  for (let j = 0; j < 16; j++) {
    const pair = bytes[high + 4 + j]!
    const first = ((bytes[high + (j >> 3)]! >> (j & 7)) & 1) << 4
    const second = ((bytes[high + 2 + (j >> 3)]! >> (j & 7)) & 1) << 4
    out[to + j] = d * (((pair & 15) | first) - offset) + m
    out[to + j + 16] = d * (((pair >> 4) | second) - offset) + m
  }
}

/** The 6-bit scale or minimum (`second`: 0 or 4) of sub-block `j` in the twelve packed bytes of Q4_K and Q5_K. */
function unpackScale(bytes: Uint8Array, at: number, j: number, second: 0 | 4): number {
  if (j < 4) return bytes[at + j + second]! & 63
  const low = second === 0 ? bytes[at + j + 4]! & 15 : bytes[at + j + 4]! >> 4
  return low | ((bytes[at + j - 4 + second]! >> 6) << 4)
}

/** Eight sub-blocks of 32 codes; `high`, if given, has their fifth bits. */
function decodeWithMinima(
  bytes: Uint8Array,
  halves: Float16Array,
  at: number,
  out: Float32Array,
  to: number,
  codes: number,
  high: number | null,
): void {
  const d = halves[at >> 1]!
  const minimum = halves[(at >> 1) + 1]!
  for (let j = 0; j < 8; j++) {
    const scale = d * unpackScale(bytes, at + 4, j, 0)
    const min = minimum * unpackScale(bytes, at + 4, j, 4)
    const shift = (j & 1) * 4
    for (let l = 0; l < 32; l++) {
      const fifth = high === null ? 0 : ((bytes[high + l]! >> j) & 1) << 4
      const code = ((bytes[codes + (j >> 1) * 32 + l]! >> shift) & 15) | fifth
      out[to + j * 32 + l] = scale * code - min
    }
  }
}

const decodeQ6K: Decode = (bytes, halves, at, out, to) => {
  const d = halves[(at + 208) >> 1]!
  for (let group = 0; group < 8; group++) {
    const half = group >> 2
    const low = at + half * 64 + (group & 1) * 32
    const high = at + 128 + half * 32
    const [lowShift, highShift] = [(group & 2) * 2, (group & 3) * 2]
    for (let l = 0; l < 32; l++) {
      const code = ((bytes[low + l]! >> lowShift) & 15) | (((bytes[high + l]! >> highShift) & 3) << 4)
      const scale = toInt8(bytes[at + 192 + group * 2 + (l >> 4)]!)
      out[to + group * 32 + l] = d * scale * (code - 32)
    }
  }
}

const decodeQ3K: Decode = (bytes, halves, at, out, to) => {
  const d = halves[(at + 108) >> 1]!
  for (let j = 0; j < 16; j++) {
    const low = (bytes[at + 96 + (j & 7)]! >> ((j >> 3) * 4)) & 15
    const high = (bytes[at + 104 + (j & 3)]! >> ((j >> 2) * 2)) & 3
    const scale = d * ((low | (high << 4)) - 32)
    const group = j >> 1
    for (let l = 0; l < 16; l++) {
      const column = (j & 1) * 16 + l
      const code = (bytes[at + 32 + (group >> 2) * 32 + column]! >> ((group & 3) * 2)) & 3
      // The third bit is stored inverted: where it is 0, 4 is subtracted.
      const third = (bytes[at + column]! >> group) & 1
      out[to + j * 16 + l] = scale * (code - 4 * (1 - third))
    }
  }
}

const decodeQ2K: Decode = (bytes, halves, at, out, to) => {
  const d = halves[(at + 80) >> 1]!
  const minimum = halves[(at + 82) >> 1]!
  for (let j = 0; j < 16; j++) {
    const packed = bytes[at + j]!
    const [scale, min] = [d * (packed & 15), minimum * (packed >> 4)]
    const codes = at + 16 + (j >> 3) * 32 + (j & 1) * 16
    const shift = ((j >> 1) & 3) * 2
    for (let l = 0; l < 16; l++) out[to + j * 16 + l] = scale * ((bytes[codes + l]! >> shift) & 3) - min
  }
}

/** Values of the non-linear 4-bit codes. */
const IQ4_VALUES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]

function decodeNonLinear(bytes: Uint8Array, at: number, out: Float32Array, to: number, d: number): void {
  for (let j = 0; j < 16; j++) {
    const pair = bytes[at + j]!
    out[to + j] = d * IQ4_VALUES[pair & 15]!
    out[to + j + 16] = d * IQ4_VALUES[pair >> 4]!
  }
}

const decodeIQ4XS: Decode = (bytes, halves, at, out, to) => {
  const d = halves[at >> 1]!
  for (let j = 0; j < 8; j++) {
    const low = (bytes[at + 4 + (j >> 1)]! >> ((j & 1) * 4)) & 15
    const high = (bytes[at + 2 + (j >> 2)]! >> ((j & 3) * 2)) & 3
    decodeNonLinear(bytes, at + 8 + j * 16, out, to + j * 32, d * ((low | (high << 4)) - 32))
  }
}

const DECODERS: Record<GgmlType, Decode> = {
  Q4_0: (bytes, halves, at, out, to) => decodeNibbles(bytes, at + 2, out, to, halves[at >> 1]!, 8, NO_MINIMUM),
  Q4_1: (bytes, halves, at, out, to) =>
    decodeNibbles(bytes, at + 4, out, to, halves[at >> 1]!, 0, halves[(at >> 1) + 1]!),
  Q5_0: (bytes, halves, at, out, to) => decodeFiveBits(bytes, at + 2, out, to, halves[at >> 1]!, 16, NO_MINIMUM),
  Q5_1: (bytes, halves, at, out, to) =>
    decodeFiveBits(bytes, at + 4, out, to, halves[at >> 1]!, 0, halves[(at >> 1) + 1]!),
  Q8_0: (bytes, halves, at, out, to) => {
    const d = halves[at >> 1]!
    for (let j = 0; j < 32; j++) out[to + j] = d * toInt8(bytes[at + 2 + j]!)
  },
  Q2_K: decodeQ2K,
  Q3_K: decodeQ3K,
  Q4_K: (bytes, halves, at, out, to) => decodeWithMinima(bytes, halves, at, out, to, at + 16, null),
  Q5_K: (bytes, halves, at, out, to) => decodeWithMinima(bytes, halves, at, out, to, at + 48, at + 16),
  Q6_K: decodeQ6K,
  IQ4_NL: (bytes, halves, at, out, to) => decodeNonLinear(bytes, at + 2, out, to, halves[at >> 1]!),
  IQ4_XS: decodeIQ4XS,
}
