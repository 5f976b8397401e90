// A directory for each test of a file, removed when the file is done.
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, beforeEach } from 'vitest'
import { type TensorContent, writeTensors } from './checkpoints/safetensors-file.ts'

/** Call it at the top of a test file. `root` is the file's, `directory` the running test's, empty at its start; `write` puts a safetensors file there. */
export function useScratch() {
  let root = ''
  const scratch = {
    root: '',
    directory: '',
    write: (name: string, tensors: Record<string, TensorContent>, metadata?: Record<string, string>) =>
      writeTensors(path.join(scratch.directory, name), tensors, metadata),
  }
  beforeAll(async () => {
    root = await mkdtemp(path.join(os.tmpdir(), 'octet-checkpoint-'))
    scratch.root = root
  })
  beforeEach(async () => {
    scratch.directory = await mkdtemp(path.join(root, 'case-'))
  })
  afterAll(() => rm(root, { recursive: true, force: true }))
  return scratch
}
