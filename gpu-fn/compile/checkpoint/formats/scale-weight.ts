// ComfyUI's scaled FP8 files: `<layer>.scale_weight` is the factor of `<layer>.weight` (comfy/ops.py).
import { open } from 'node:fs/promises'
import { CheckpointError, quote } from '../error.ts'
import { toFloat32 } from './dtype.ts'
import type { TensorInfo } from './safetensors.ts'

const SUFFIX = '.scale_weight'

/** Removes the scales from `tensors` and returns them by the name of their weight. Throws CheckpointError. */
export async function foldScales(file: string, tensors: Map<string, TensorInfo>): Promise<Map<string, number>> {
  const scales = new Map<string, number>()
  for (const [name, info] of tensors) {
    if (!name.endsWith(SUFFIX)) continue
    const weight = `${name.slice(0, -SUFFIX.length)}.weight`
    if (!tensors.has(weight))
      throw new CheckpointError(file, `tensor ${quote(info.name)}: there is no ${quote(weight)} to scale`)
    scales.set(weight, await readScalar(info))
    tensors.delete(name)
  }
  return scales
}

async function readScalar(info: TensorInfo): Promise<number> {
  const fail = (problem: string) => new CheckpointError(info.file, `tensor ${quote(info.name)}: ${problem}`)
  if (info.dtype !== 'F32' || info.bytes !== 4) {
    throw fail(`a scale must be one F32 number, not ${info.dtype} [${info.shape.join(', ')}]`)
  }
  await using handle = await open(info.file, 'r')
  const bytes = new Uint8Array(4)
  const { bytesRead } = await handle.read(bytes, 0, 4, info.offset)
  if (bytesRead < 4) throw fail('the file ends before it')
  const value = new Float32Array(1)
  toFloat32(bytes, 'F32', 1, value)
  const scale = value[0]!
  if (!(scale > 0 && scale < Number.POSITIVE_INFINITY)) throw fail(`a scale must be positive and finite, not ${scale}`)
  return scale
}
