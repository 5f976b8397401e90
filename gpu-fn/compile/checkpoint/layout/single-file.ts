// The single-file layout: divides the tensors of a file into networks by their names.
import { CheckpointError, quote } from '../error.ts'
import type { SafetensorsFile, TensorInfo } from '../formats/safetensors.ts'
import type { Layout } from '../tensor.ts'
import type { Naming } from './naming.ts'

/** The tensors of one network under a file's names, prefix removed. */
export type RawNetwork = { file: string; tensors: Map<string, TensorInfo> }

/** Moving average of the weights that training stores beside them, under names without dots. */
const AVERAGE_PREFIX = 'model_ema.'

/** Prefixes of a whole file of one network, from the class that trained or saved it. */
const WRAPPERS = ['model.', 'module.', 'transformer.']

/** Whether the family skips a tensor (prefix removed) of `network`. */
export function isSkipped(network: string, name: string, layout: Layout, { skipped }: Naming): boolean {
  return skipped.some(
    (skip) =>
      (skip.networks === 'all' || skip.networks.includes(network)) &&
      (skip.layout ?? layout) === layout &&
      skip.pattern.test(name),
  )
}

/** Groups the tensors of a file by network. Throws CheckpointError for tensors of no network, and if there is no network. */
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
    const unwrapped = removeWrapper(bare)
    const network = naming.identify(source.file, unwrapped)
    for (const [name, info] of unwrapped) addTensor(source.file, networks, network, name, info)
  }
  if (networks.size === 0) throw new CheckpointError(source.file, emptyProblem(source))
  return networks
}

/** Removes the wrapper from the names, if all names have it. */
function removeWrapper(tensors: Map<string, TensorInfo>): Map<string, TensorInfo> {
  const names = [...tensors.keys()]
  const wrapper = WRAPPERS.find((prefix) => names.every((name) => name.startsWith(prefix)))
  return wrapper ? new Map([...tensors].map(([name, info]) => [name.slice(wrapper.length), info])) : tensors
}

function emptyProblem({ tensors }: SafetensorsFile): string {
  if (tensors.size === 0) return 'has no tensors'
  return `has only moving averages (${AVERAGE_PREFIX}…), whose names do not determine their tensors; use the file with the weights`
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
