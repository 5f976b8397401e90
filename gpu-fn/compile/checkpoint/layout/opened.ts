// The content of one path of a checkpoint.
import path from 'node:path'
import type { TensorInfo } from '../formats/safetensors.ts'
import type { Layout, Source } from '../tensor.ts'
import type { RawNetwork } from './single-file.ts'

type Json = Record<string, unknown>

export type OpenedNetwork = RawNetwork & {
  source: Source
  /** Its config.json, if there is one. */
  config?: Json | undefined
}

export type OpenedPath = {
  networks: Map<string, OpenedNetwork>
  /** scheduler_config.json, if there is one. */
  scheduler?: Json | undefined
  declined: Set<string>
  absent: Map<string, string>
  notes: string[]
}

/** Note about a file: its networks, layout and element types. */
export function describeFile(file: string, layout: Layout, networks: readonly RecognizedFile[]): string {
  const dtypes = new Set(networks.flatMap(({ tensors }) => [...tensors.values()].map(({ dtype }) => dtype)))
  return `${file}: ${networks.map(({ title }) => title).join(', ')}; ${layout} layout, ${[...dtypes].sort().join(', ')}.`
}

type RecognizedFile = { title: string; tensors: ReadonlyMap<string, TensorInfo> }

/** The name of a checkpoint's directory, or of its repository in a Hugging Face cache, whose directories are named by commits. */
export function deriveDirectoryName(directory: string): string {
  const [name, snapshots, repository] = path.resolve(directory).split(path.sep).reverse()
  const isCached = snapshots === 'snapshots' && repository?.startsWith('models--')
  return isCached ? repository!.split('--').at(-1)! : name!
}
