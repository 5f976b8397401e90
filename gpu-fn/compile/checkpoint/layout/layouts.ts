// The networks of a single file, by the names of its tensors.
import { CheckpointError, quote } from '../error.ts'
import type { SafetensorsFile, TensorInfo } from '../formats/safetensors.ts'
import type { Naming } from './naming.ts'

/** The tensors of one network under a file's names, prefix removed. */
export type RawNetwork = { file: string; tensors: Map<string, TensorInfo> }

/** Moving average of the weights that training stores beside them. */
const AVERAGE_PREFIX = 'model_ema.'

/** Whether a tensor (prefix removed) of `network` is one of those that are not read. */
export function isSkipped(network: string, name: string, { skipped }: Naming): boolean {
  return skipped.some(
    ({ networks, pattern }) => (networks === 'all' || networks.includes(network)) && pattern.test(name),
  )
}

/** Groups the tensors of a file by network. Throws CheckpointError for tensors of no network. */
export function splitNetworks(source: SafetensorsFile, naming: Naming): Map<string, RawNetwork> {
  naming.refuseOthers(source.file, source.tensors.keys())
  const networks = new Map<string, RawNetwork>()
  const bare = new Map<string, TensorInfo>()
  for (const [name, info] of source.tensors) {
    if (name.startsWith(AVERAGE_PREFIX)) continue
    const [prefix, network] = naming.prefixes.find(([candidate]) => name.startsWith(candidate)) ?? []
    if (!prefix || !network) bare.set(name, info)
    else addTensor(source.file, networks, network, name.slice(prefix.length), info)
  }
  if (bare.size > 0) {
    const network = naming.identify(source.file, bare)
    for (const [name, info] of bare) addTensor(source.file, networks, network, name, info)
  }
  return networks
}

function addTensor(
  file: string,
  networks: Map<string, RawNetwork>,
  network: string,
  name: string,
  info: TensorInfo,
): void {
  const { tensors } = networks.get(network) ?? { tensors: new Map<string, TensorInfo>() }
  if (tensors.has(name))
    throw new CheckpointError(file, `tensor ${quote(info.name)}: ${network} has ${quote(name)} already`)
  networks.set(network, { file, tensors: tensors.set(name, info) })
}
