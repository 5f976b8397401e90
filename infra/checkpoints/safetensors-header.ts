// The header of a safetensors file. The caller writes the tensors or leaves them sparse.

export type TensorShape = { name: string; dtype: 'F32' | 'F16' | 'BF16'; shape: readonly number[] }

const ELEMENT_BYTES = { F32: 4, F16: 2, BF16: 2 } as const
const ALIGNMENT = 8

/** The header, padded with spaces to 8 bytes, and the size of the tensors that must follow in the given order. */
export function encodeSafetensorsHeader(tensors: Iterable<TensorShape>): { header: Buffer; dataBytes: number } {
  const entries: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const { name, dtype, shape } of tensors) {
    const end = offset + shape.reduce((product, axis) => product * axis, ELEMENT_BYTES[dtype])
    entries[name] = { dtype, shape, data_offsets: [offset, end] }
    offset = end
  }
  const json = Buffer.from(JSON.stringify(entries))
  const padding = Buffer.alloc(-json.length & (ALIGNMENT - 1), ' ')
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length + padding.length))
  return { header: Buffer.concat([length, json, padding]), dataBytes: offset }
}
