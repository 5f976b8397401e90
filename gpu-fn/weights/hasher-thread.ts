// Hashes files while they are written. They are written in any order, so they are read back from the page cache.
import { createHash, type Hash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'

/** Contiguous bytes from the start of a file, and whether the file is complete. */
export type HashUpdate = { file: string; bytes: number; complete: boolean }

/** The digest of a complete file. */
export type HashedFile = { file: string; sha256: string }

/** Fits a core's cache. */
const block = Buffer.alloc(256 * 1024)
const files = new Map<string, { descriptor: number; hash: Hash; hashed: number }>()

parentPort!.on('message', ({ file, bytes, complete }: HashUpdate) => {
  const open = files.get(file) ?? { descriptor: openSync(file, 'r'), hash: createHash('sha256'), hashed: 0 }
  files.set(file, open)
  while (open.hashed < bytes) {
    const count = readSync(open.descriptor, block, 0, Math.min(block.length, bytes - open.hashed), open.hashed)
    if (count === 0) throw new Error(`${file} ends after ${open.hashed} of ${bytes} bytes`)
    open.hash.update(block.subarray(0, count))
    open.hashed += count
  }
  if (!complete) return
  files.delete(file)
  closeSync(open.descriptor)
  parentPort!.postMessage({ file, sha256: open.hash.digest('hex') } satisfies HashedFile)
})
