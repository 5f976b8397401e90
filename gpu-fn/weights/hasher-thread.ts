// Reads files back while they are written, from the page cache and in the order of the bytes: they are written in any order.
import { createHash, type Hash } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'

/** How many bytes of a file are there, from its start on, and whether they are all. */
export type Arrived = { file: string; bytes: number; whole: boolean }

/** Told of each file that is whole. */
export type Hashed = { file: string; sha256: string }

/** Small enough for a core's own cache. */
const block = Buffer.alloc(256 * 1024)
const files = new Map<string, { descriptor: number; hash: Hash; hashed: number }>()

parentPort!.on('message', ({ file, bytes, whole }: Arrived) => {
  const open = files.get(file) ?? { descriptor: openSync(file, 'r'), hash: createHash('sha256'), hashed: 0 }
  files.set(file, open)
  while (open.hashed < bytes) {
    const count = readSync(open.descriptor, block, 0, Math.min(block.length, bytes - open.hashed), open.hashed)
    if (count === 0) throw new Error(`${file} ends after ${open.hashed} of ${bytes} bytes`)
    open.hash.update(block.subarray(0, count))
    open.hashed += count
  }
  if (!whole) return
  files.delete(file)
  closeSync(open.descriptor)
  parentPort!.postMessage({ file, sha256: open.hash.digest('hex') } satisfies Hashed)
})
