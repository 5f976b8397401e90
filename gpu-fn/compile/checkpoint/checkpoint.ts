// Opens a checkpoint in either published layout, with the tensor names of its network family.
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError } from './error.ts'
import { identifyFormat } from './formats/file-kind.ts'
import { readGguf } from './formats/gguf.ts'
import { readHeader } from './formats/safetensors.ts'
import { assembleNetwork } from './layout/assemble.ts'
import { findTokenizers, isDirectory, nameFolder, readDiffusersDirectory } from './layout/diffusers-directory.ts'
import { readOptional } from './layout/model-index.ts'
import type { Naming } from './layout/naming.ts'
import { describeFile, type OpenedNetwork, type OpenedPath } from './layout/opened.ts'
import { readSharded } from './layout/shards.ts'
import { splitNetworks } from './layout/single-file.ts'
import type { Checkpoint } from './tensor.ts'

/**
 * Opens a diffusers directory or one of its folders, or safetensors or GGUF files (or their `.safetensors.index.json`) of the single-file layout, or
 * several of these together: a later network replaces an earlier one. Networks in `omitted` are not opened. Only headers and scales are read.
 * Throws CheckpointError for malformed files and for tensors without a network. Missing and superfluous parameters are found by the model
 * that reads them.
 */
export async function readCheckpoint(
  paths: readonly string[],
  naming: Naming,
  omitted: ReadonlySet<string> = new Set(),
): Promise<Checkpoint> {
  const opened: OpenedPath = { networks: new Map(), declined: new Set(), absent: new Map(), notes: [] }
  const tokenizers: Checkpoint['tokenizers'] = {}
  for (const given of paths) {
    const directory = await isDirectory(given)
    const later = await (directory ? readDiffusersDirectory(given, naming, omitted) : openFile(given, naming, omitted))
    add(opened, later, naming)
    addTokenizers(tokenizers, await findTokenizers(directory ? given : path.dirname(given), naming), later, naming)
  }
  const { networks, scheduler, ...rest } = opened
  const checkpoint: Checkpoint = { ...rest, networks: {}, sources: {}, config: {}, tokenizers }
  if (scheduler) checkpoint.config.scheduler = scheduler
  for (const [network, raw] of networks) {
    checkpoint.networks[network] = assembleNetwork(network, raw, naming)
    checkpoint.sources[network] = raw.source
    if (raw.config) checkpoint.config[network] = raw.config
  }
  return checkpoint
}

/** Merges the networks of a later path. A network without config.json inherits that of the network it replaces, as a fine-tune keeps its base's settings. */
function add(whole: OpenedPath, later: OpenedPath, { titles }: Naming): void {
  whole.notes.push(...later.notes)
  for (const [network, raw] of later.networks) {
    const earlier = whole.networks.get(network)
    const inherited = raw.config ? undefined : earlier?.config
    const settings = inherited ? ', whose config.json applies' : ''
    if (earlier) whole.notes.push(`${raw.file}: its ${titles[network]} replaces that of ${earlier.file}${settings}.`)
    whole.networks.set(network, { ...raw, config: raw.config ?? inherited })
  }
  whole.scheduler = later.scheduler ?? whole.scheduler
  for (const network of later.declined) whole.declined.add(network)
  for (const [network, reason] of later.absent) whole.absent.set(network, reason)
}

/** Adds the tokenizers of a later path, which replace earlier ones if the path has their encoders: an encoder belongs to its own tokenizer. */
function addTokenizers(
  whole: Checkpoint['tokenizers'],
  found: Checkpoint['tokenizers'],
  { networks }: OpenedPath,
  { tokenizers }: Naming,
): void {
  for (const [network, name] of Object.entries(tokenizers)) {
    const at = found[name]
    if (at !== undefined && (networks.has(network) || whole[name] === undefined)) whole[name] = at
  }
}

/** The names of weights files beside a config.json, as diffusers and transformers write them. */
const FOLDER_FILE = /^(diffusion_pytorch_model|model)\b/i

async function openFile(file: string, naming: Naming, omitted: ReadonlySet<string>): Promise<OpenedPath> {
  const found = [...splitNetworks(await readFile(file, naming), naming)]
  const recognized = found.map(([network, { tensors }]) => ({ title: naming.titles[network]!, tensors }))
  const folder = found.length === 1 && FOLDER_FILE.test(path.basename(file)) ? path.dirname(file) : undefined
  const config = folder ? await readOptional(path.join(folder, 'config.json')) : undefined
  const source = { layout: 'single-file', name: folder ? nameFolder(folder, naming) : path.basename(file) } as const
  const networks = found
    .filter(([network]) => !omitted.has(network))
    .map(([network, raw]): [string, OpenedNetwork] => [network, { ...raw, source, config }])
  const notes = [describeFile(file, source.layout, recognized)]
  return { networks: new Map(networks), declined: new Set(), absent: new Map(), notes }
}

async function readFile(file: string, naming: Naming) {
  const shard = /-\d{5}-of-(\d{5})\.safetensors$/i.exec(file)
  if (shard && Number(shard[1]) > 1) {
    throw new CheckpointError(
      file,
      `is one of ${Number(shard[1])} shards; give its folder or its .safetensors.index.json`,
    )
  }
  if (!(await stat(file).catch(() => undefined))) throw new CheckpointError(file, 'no such file or directory')
  if (/\.json$/i.test(file)) return readSharded(file)
  if ((await identifyFormat(file)) === 'gguf') return readGguf(file, naming.renameGguf)
  if (/\.safetensors$/i.test(file)) return readHeader(file)
  throw new CheckpointError(
    file,
    'is neither a directory, nor a .safetensors file, nor a .safetensors.index.json, nor a GGUF file',
  )
}
