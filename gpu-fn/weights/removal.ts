// Removal of directories such that an interrupted process leaves no incomplete one under its name.
import { randomUUID } from 'node:crypto'
import { rename, rm } from 'node:fs/promises'
import path from 'node:path'

const PREFIX = '.removed-'

/** Renames a directory to a hidden sibling, and removes that. A directory that does not exist counts as removed. */
export async function removeDirectory(directory: string): Promise<void> {
  const removed = path.join(path.dirname(directory), PREFIX + randomUUID())
  try {
    await rename(directory, removed)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  await rm(removed, { recursive: true, force: true })
}

/** True for the hidden sibling that an interrupted `removeDirectory` has left. */
export const isRemoved = (name: string) => name.startsWith(PREFIX)
