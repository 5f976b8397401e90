// Writing small safetensors files: an 8-byte header length, a JSON header, then the bytes of every tensor in order.
import { writeFile } from 'node:fs/promises'
import { float32ToFloat16 } from '../gpu-fn/compile/dtype.ts'

export type StoredDtype = 'F32' | 'F16' | 'BF16'
export type NamedTensor = { name: string; shape: readonly number[]; data: Float32Array }

const ALIGNMENT = 8

/** Writes `tensors` to `file` as `dtype`, in the order given. https://huggingface.co/docs/safetensors */
export async function writeSafetensors(
  file: string,
  tensors: readonly NamedTensor[],
  dtype: StoredDtype,
): Promise<void> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  const blocks: Uint8Array[] = []
  let offset = 0
  for (const { name, shape, data } of tensors) {
    const bytes = encode(data, dtype)
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] }
    blocks.push(bytes)
    offset += bytes.length
  }
  const json = Buffer.from(JSON.stringify(header))
  const padding = Buffer.alloc(-json.length & (ALIGNMENT - 1), ' ')
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length + padding.length))
  await writeFile(file, Buffer.concat([length, json, padding, ...blocks]))
}

function encode(values: Float32Array, dtype: StoredDtype): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const out = new Uint16Array(values.length)
  if (dtype === 'F16') float32ToFloat16(values, out)
  else float32ToBfloat16(values, out)
  return new Uint8Array(out.buffer)
}

/** Rounds to nearest even; finite values only. */
function float32ToBfloat16(values: Float32Array, out: Uint16Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!
    out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
}
