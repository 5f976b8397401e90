// Assembles the tensors of one network: skips unused ones, applies scales, and renames them.
import { CheckpointError, quote } from '../error.ts'
import { BYTES_PER_ELEMENT } from '../formats/dtype.ts'
import type { TensorInfo } from '../formats/safetensors.ts'
import { foldScales } from '../formats/scale-weight.ts'
import type { Tensor } from '../tensor.ts'
import { isSkipped } from './layouts.ts'
import type { Naming } from './naming.ts'
import type { OpenedNetwork } from './opened.ts'

/** `raw` under the family's names. Throws CheckpointError for names that the family does not use. */
export async function assembleNetwork(
  network: string,
  raw: OpenedNetwork,
  naming: Naming,
): Promise<Map<string, Tensor>> {
  const { layout } = raw.source
  const named = naming.translate(network, raw.tensors)
  const used = new Map([...named].filter(([name]) => !isSkipped(network, name, layout, naming)))
  const scales = await foldScales(raw.file, used)
  const tensors = new Map([...used].map(([name, info]) => [name, toTensor(name, info, scales.get(name) ?? 1)]))
  return naming.adapt(network, raw.file, tensors)
}

function toTensor(name: string, info: TensorInfo, scale: number): Tensor {
  const { dtype, shape, file, offset, bytes } = info
  if (!isParameterDtype(dtype)) {
    const allowed = Object.keys(BYTES_PER_ELEMENT).join(', ')
    throw new CheckpointError(
      file,
      `tensor ${quote(info.name)}: parameters of dtype ${dtype} cannot be compiled; ${allowed} can`,
    )
  }
  return { name, dtype, shape, parts: [{ file, offset, bytes }], scale }
}

function isParameterDtype(dtype: string): dtype is Tensor['dtype'] {
  return Object.hasOwn(BYTES_PER_ELEMENT, dtype)
}
