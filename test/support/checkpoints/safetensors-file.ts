// safetensors files for tests, well-formed or not.
import { writeFile } from 'node:fs/promises'

export type TensorContent = { dtype: string; shape: readonly number[]; data?: Uint8Array }

const ELEMENT_BYTES: Record<string, number> = {
  F4: 1 / 2,
  F8_E4M3: 1,
  F8_E8M0: 1,
  I8: 1,
  U8: 1,
  F16: 2,
  BF16: 2,
  F32: 4,
  I32: 4,
  I64: 8,
  F64: 8,
}

/** `header` unchanged, valid or not, then `dataBytes` zeros. `length` is the stated length of the header. */
export function packHeader(header: string | Uint8Array, dataBytes = 0, length?: bigint): Uint8Array {
  const json = Buffer.from(header)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(json.length))
  return Buffer.concat([prefix, json, Buffer.alloc(dataBytes)])
}

/** A well-formed file; tensors without data are zeros. */
export function packTensors(tensors: Record<string, TensorContent>, metadata?: Record<string, string>): Uint8Array {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {}
  const blocks: Uint8Array[] = []
  let offset = 0
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const bytes = shape.reduce((product, axis) => product * axis, ELEMENT_BYTES[dtype]!)
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes] }
    blocks.push(data ?? new Uint8Array(bytes))
    offset += bytes
  }
  return Buffer.concat([packHeader(JSON.stringify(header)), ...blocks])
}

/** Writes a well-formed file and returns its path. */
export async function writeTensors(
  file: string,
  tensors: Record<string, TensorContent>,
  metadata?: Record<string, string>,
): Promise<string> {
  await writeFile(file, packTensors(tensors, metadata))
  return file
}
