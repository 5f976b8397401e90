// The directory layout of diffusers: a folder for each network, with weights in one file or in shards and a config.json.
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError, listNames } from '../error.ts'
import type { Checkpoint } from '../tensor.ts'
import { folderExists, MODEL_INDEX, readModelIndex, readOptional } from './model-index.ts'
import type { Naming } from './naming.ts'
import { deriveDirectoryName, describeFile, type OpenedNetwork, type OpenedPath } from './opened.ts'
import { hasWeights, readWeights } from './weights-folder.ts'

/**
 * Opens the networks in the directory of a checkpoint, or the one network of a folder of such a directory. Networks in `omitted` are not
 * opened. Throws CheckpointError if there is no network, and if a component's folder is something else.
 */
export async function readDiffusersDirectory(
  directory: string,
  naming: Naming,
  omitted: ReadonlySet<string>,
): Promise<OpenedPath> {
  const opened: OpenedPath = { networks: new Map(), declined: new Set(), absent: new Map(), notes: [] }
  const statusOf = await readModelIndex(directory, naming.pipelines)
  for (const { folder, network, stem } of naming.folders) {
    if (omitted.has(network)) continue
    const at = path.join(directory, folder)
    const status = statusOf(folder)
    if (status === 'declined') {
      opened.declined.add(network)
      opened.notes.push(`${path.join(directory, MODEL_INDEX)} lists ${folder} as null: it is not read.`)
    } else if (await folderExists(at)) {
      const source = { layout: 'diffusers', name: deriveDirectoryName(directory) } as const
      opened.networks.set(network, { ...(await openFolder(at, naming, opened, stem, network)).opened, source })
    } else if (status === 'listed') {
      opened.absent.set(network, `${path.join(directory, MODEL_INDEX)} lists ${folder}, but there is no ${at}`)
    }
  }
  if (opened.networks.size + opened.declined.size + opened.absent.size === 0)
    await openLoneFolder(directory, naming, opened)
  const folder = path.join(directory, 'scheduler')
  const scheduler = path.join(folder, 'scheduler_config.json')
  opened.scheduler = (await folderExists(folder)) ? await readOptional(scheduler) : undefined
  if (opened.scheduler) opened.notes.push(`${scheduler}: scheduler.`)
  return opened
}

/** Opens the folder of one network, such as a fine-tuned `transformer/`, without its checkpoint. */
async function openLoneFolder(directory: string, naming: Naming, opened: OpenedPath): Promise<void> {
  if (!(await hasWeights(directory))) {
    const names = naming.folders.map(({ folder }) => folder).join(', ')
    const files = (await readdir(directory)).filter((name) => /\.(safetensors|gguf)$/i.test(name))
    const advice = files.length > 0 ? `. It has the files ${listNames(files)}: give the path of a file` : ''
    throw new CheckpointError(
      directory,
      `is not a diffusers checkpoint: it has none of the folders ${names}, and no weights of one of them${advice}`,
    )
  }
  const { stem, network: expected } = componentOf(directory, naming) ?? {}
  const { network, opened: found } = await openFolder(directory, naming, opened, stem, expected)
  opened.networks.set(network, { ...found, source: { layout: 'diffusers', name: nameFolder(directory, naming) } })
}

const componentOf = (directory: string, { folders }: Naming) =>
  folders.find(({ folder }) => folder === path.basename(path.resolve(directory)))

/** The name of a network's folder, or of its checkpoint's directory if the folder has a name of the diffusers layout. */
export const nameFolder = (directory: string, naming: Naming): string =>
  deriveDirectoryName(componentOf(directory, naming) ? path.join(directory, '..') : directory)

async function openFolder(
  at: string,
  naming: Naming,
  { notes }: OpenedPath,
  stem?: string,
  expected?: string,
): Promise<{ network: string; opened: Omit<OpenedNetwork, 'source'> }> {
  const { file, tensors, variant, passed } = await readWeights(at, stem)
  naming.refuseOthers(file, tensors.keys())
  const network = naming.identify(file, tensors, expected)
  const title = naming.titles[network]!
  const config = await readOptional(path.join(at, 'config.json'))
  notes.push(describeFile(file, 'diffusers', [{ title, tensors }]))
  if (variant)
    notes.push(`${at}: variant ${variant} is read${passed.length > 0 ? `, because ${passed.join('; ')}` : ''}.`)
  if (!config)
    notes.push(`${at} has no config.json: settings that the tensors do not determine have the published values.`)
  return { network, opened: { file, tensors, config } }
}

/** The tokenizer folders in `directory`. */
export async function findTokenizers(directory: string, { tokenizers }: Naming): Promise<Checkpoint['tokenizers']> {
  const found: Checkpoint['tokenizers'] = {}
  for (const name of Object.values(tokenizers)) {
    const at = path.join(directory, name)
    if (await isDirectory(at)) found[name] = at
  }
  return found
}

export async function isDirectory(at: string): Promise<boolean> {
  return (await stat(at).catch(() => undefined))?.isDirectory() ?? false
}
