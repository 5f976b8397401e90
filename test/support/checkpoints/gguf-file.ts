// GGUF files for tests, well-formed or not (ggml docs/gguf.md).
export type GgufTensor = { type: number; shape: readonly number[]; data?: Uint8Array; offset?: bigint }
type Value = string | number | readonly string[]

const [UINT32, STRING, ARRAY] = [4, 8, 9]
export const GGUF_TYPES = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8, Q6_K: 14, IQ1_S: 19, I64: 27 } as const
/** Values and bytes of a block. */
const BLOCKS: Record<number, readonly [number, number]> = {
  ...{ 0: [1, 4], 1: [1, 2], 2: [32, 18], 8: [32, 34], 14: [256, 210], 19: [256, 50], 27: [1, 8] },
}

const encodeU32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
const encodeU64 = (value: bigint | number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const encodeString = (value: string) => Buffer.concat([encodeU64(Buffer.byteLength(value)), Buffer.from(value)])

function encodeMetadataValue(value: Value): Buffer {
  if (typeof value === 'number') return Buffer.concat([encodeU32(UINT32), encodeU32(value)])
  if (typeof value === 'string') return Buffer.concat([encodeU32(STRING), encodeString(value)])
  return Buffer.concat([encodeU32(ARRAY), encodeU32(STRING), encodeU64(value.length), ...value.map(encodeString)])
}

const pad = (length: number, alignment: number) => Buffer.alloc((alignment - (length % alignment)) % alignment)

/** The header and the data of a file; shapes as in safetensors, tensors without data are zeros. */
export function packGguf(
  tensors: readonly (readonly [name: string, tensor: GgufTensor])[],
  metadata: Record<string, Value> = {},
): { header: Buffer; data: Buffer } {
  const alignment = typeof metadata['general.alignment'] === 'number' ? metadata['general.alignment'] : 32
  const data: Buffer[] = []
  let end = 0
  const infos = tensors.map(([name, { type, shape, data: given, offset }]) => {
    const [values, size] = BLOCKS[type]!
    const bytes = given ?? new Uint8Array((shape.reduce((product, axis) => product * axis, 1) / values) * size)
    const place = offset ?? BigInt(end)
    data.push(Buffer.from(bytes), pad(bytes.length, alignment))
    end += bytes.length + data.at(-1)!.length
    const dims = shape.toReversed().map(encodeU64)
    return Buffer.concat([encodeString(name), encodeU32(shape.length), ...dims, encodeU32(type), encodeU64(place)])
  })
  const entries = Object.entries(metadata).map(([key, value]) =>
    Buffer.concat([encodeString(key), encodeMetadataValue(value)]),
  )
  const start = Buffer.concat([
    Buffer.from('GGUF'),
    encodeU32(3),
    encodeU64(tensors.length),
    encodeU64(entries.length),
    ...entries,
    ...infos,
  ])
  return { header: Buffer.concat([start, pad(start.length, alignment)]), data: Buffer.concat(data) }
}
