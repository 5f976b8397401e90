// Assembles the tensors of one network: skips unused ones, applies scales, and renames them.
import { readParameters } from '../formats/quantization.ts'
import type { Tensor } from '../tensor.ts'
import type { Naming } from './naming.ts'
import type { OpenedNetwork } from './opened.ts'
import { isSkipped } from './single-file.ts'

/** `raw` under the family's names. Throws CheckpointError for names that the family does not use. */
export function assembleNetwork(network: string, raw: OpenedNetwork, naming: Naming): Map<string, Tensor> {
  const { layout } = raw.source
  const named = naming.translate(network, raw.tensors)
  const used = new Map([...named].filter(([name]) => !isSkipped(network, name, layout, naming)))
  return naming.adapt(network, raw.file, readParameters(raw.file, used))
}
