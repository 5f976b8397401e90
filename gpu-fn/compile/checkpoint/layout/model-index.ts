// model_index.json of diffusers, and the optional files of a directory.
import { lstat, stat } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError, quote } from '../error.ts'
import { readJsonObject } from './shards.ts'

export const MODEL_INDEX = 'model_index.json'

/** `declined`: listed as `[null, null]`. */
export type Status = 'listed' | 'declined' | 'unlisted'

/**
 * The status of each component in the model_index.json of a directory; without such a file, all are unlisted. Throws CheckpointError, also
 * for a pipeline whose name does not match `pipelines`.
 */
export async function readModelIndex(directory: string, pipelines: RegExp): Promise<(component: string) => Status> {
  const file = path.join(directory, MODEL_INDEX)
  const index = (await readOptional(file)) ?? {}
  const pipeline = index._class_name
  if (pipeline !== undefined && !(typeof pipeline === 'string' && pipelines.test(pipeline))) {
    const given = typeof pipeline === 'string' ? quote(pipeline) : typeof pipeline
    throw new CheckpointError(file, `_class_name is ${given}; allowed: ${pipelines.source}`)
  }
  return (component) => {
    if (!Object.hasOwn(index, component)) return 'unlisted'
    const entry = [index[component]].flat()
    return entry.every((item) => item === null) ? 'declined' : 'listed'
  }
}

/** A JSON object, or undefined if there is no such file. Throws CheckpointError, including for a broken link. */
export async function readOptional(file: string): Promise<Record<string, unknown> | undefined> {
  return (await exists(file)) ? readJsonObject(file) : undefined
}

/** Whether there is a folder. Throws CheckpointError for a broken link and for a file of this name. */
export async function folderExists(at: string): Promise<boolean> {
  if (!(await exists(at))) return false
  if ((await stat(at)).isDirectory()) return true
  throw new CheckpointError(at, 'is not a folder')
}

/** Throws CheckpointError for a broken link and for an entry that cannot be read. */
async function exists(at: string): Promise<boolean> {
  const absent = await codeOf(lstat(at))
  if (absent === 'ENOENT' || absent === 'ENOTDIR') return false
  const unreadable = await codeOf(stat(at))
  if (unreadable === null) return true
  throw new CheckpointError(at, unreadable === 'ENOENT' ? 'is a broken link' : `cannot be read (${unreadable})`)
}

const codeOf = (call: Promise<unknown>): Promise<string | null> =>
  call.then(
    () => null,
    (error: NodeJS.ErrnoException) => error.code ?? 'unknown',
  )
