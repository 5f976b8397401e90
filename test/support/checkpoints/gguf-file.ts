// GGUF files for tests, well-formed or not (ggml docs/gguf.md).
export type GgufTensor = { type: number; shape: readonly number[]; data?: Uint8Array; offset?: bigint }
type Value = string | number | readonly string[]

const [UINT32, STRING, ARRAY] = [4, 8, 9]
export const GGUF_TYPES = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8, Q6_K: 14, IQ1_S: 19, I64: 27 } as const
/** Values and bytes of a block. */
const BLOCKS: Record<number, readonly [number, number]> = {
  ...{ 0: [1, 4], 1: [1, 2], 2: [32, 18], 8: [32, 34], 14: [256, 210], 19: [256, 50], 27: [1, 8] },
}

const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
const u64 = (value: bigint | number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
const string = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])

function metadataValue(value: Value): Buffer {
  if (typeof value === 'number') return Buffer.concat([u32(UINT32), u32(value)])
  if (typeof value === 'string') return Buffer.concat([u32(STRING), string(value)])
  return Buffer.concat([u32(ARRAY), u32(STRING), u64(value.length), ...value.map(string)])
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
    const dims = shape.toReversed().map(u64)
    return Buffer.concat([string(name), u32(shape.length), ...dims, u32(type), u64(place)])
  })
  const entries = Object.entries(metadata).map(([key, value]) => Buffer.concat([string(key), metadataValue(value)]))
  const start = Buffer.concat([
    Buffer.from('GGUF'),
    u32(3),
    u64(tensors.length),
    u64(entries.length),
    ...entries,
    ...infos,
  ])
  return { header: Buffer.concat([start, pad(start.length, alignment)]), data: Buffer.concat(data) }
}
