// Assembles the tensors of one network: skips unused ones, applies scales, and renames them.
import { readParameters } from '../formats/quantization.ts'
import type { Tensor } from '../tensor.ts'
import { isSkipped, type RawNetwork } from './layouts.ts'
import type { Naming } from './naming.ts'

/** `raw` under the family's names. Throws CheckpointError for names that the family does not use. */
export function assembleNetwork(network: string, raw: RawNetwork, naming: Naming): Map<string, Tensor> {
  const used = new Map([...raw.tensors].filter(([name]) => !isSkipped(network, name, naming)))
  return naming.adapt(network, raw.file, readParameters(raw.file, used))
}
