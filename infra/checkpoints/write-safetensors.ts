// Writes small safetensors files: the header, then the bytes of every tensor in order.
import { writeFile } from 'node:fs/promises'
import { convertFloat32ToFloat16 } from '../../gpu-fn/compile/checkpoint/formats/dtype.ts'
import { encodeSafetensorsHeader, type TensorShape } from './safetensors-header.ts'

export type StoredDtype = TensorShape['dtype']
export type NamedTensor = { name: string; shape: readonly number[]; data: Float32Array }

/** Writes `tensors` to `file` as `dtype`, in the order given. https://huggingface.co/docs/safetensors */
export async function writeSafetensors(
  file: string,
  tensors: readonly NamedTensor[],
  dtype: StoredDtype,
): Promise<void> {
  const { header } = encodeSafetensorsHeader(tensors.map(({ name, shape }) => ({ name, shape, dtype })))
  await writeFile(file, Buffer.concat([header, ...tensors.map(({ data }) => encode(data, dtype))]))
}

/** The values as little-endian bytes of `dtype`. */
export function encode(values: Float32Array, dtype: StoredDtype): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const out = new Uint16Array(values.length)
  if (dtype === 'F16') convertFloat32ToFloat16(values, out)
  else convertFloat32ToBfloat16(values, out)
  return new Uint8Array(out.buffer)
}

/** Rounds to nearest even; finite values only. */
export function convertFloat32ToBfloat16(values: Float32Array, out: Uint16Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!
    out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
  }
}
