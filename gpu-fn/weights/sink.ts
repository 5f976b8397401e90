// The thread that writes what is downloaded: pieces come in the order of the bytes, so that a file's SHA-256 is known when its last one is
// written. A file gets its name only then.
import { createHash, type Hash } from 'node:crypto'
import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs'
import path from 'node:path'
import { parentPort } from 'node:worker_threads'

/** `data` is shared with the sender, who may use it again once the part was acknowledged. */
export type Part = {
  /** Told back when it is written. */
  slot: number | null
  data: Uint8Array
  /** Where the file is written until it is whole, and where it is put then. */
  partial: string
  file: string
  last: boolean
  sha256: string
}

/** One for each part, in order. `mismatch` names the file that was not what its digest says, and the digest of what came. */
export type Written = { slot: number | null; mismatch?: { file: string; sha256: string }; error?: Error }

let open: { descriptor: number; hash: Hash } | undefined

parentPort!.on('message', (part: Part) => {
  try {
    parentPort!.postMessage({ slot: part.slot, ...write(part) } satisfies Written)
  } catch (error) {
    parentPort!.postMessage({ slot: part.slot, error: error as Error } satisfies Written)
  }
})

function write({ data, partial, file, last, sha256 }: Part): Omit<Written, 'slot'> {
  if (!open) {
    mkdirSync(path.dirname(partial), { recursive: true })
    open = { descriptor: openSync(partial, 'wx'), hash: createHash('sha256') }
  }
  const { descriptor, hash } = open
  hash.update(data)
  for (let written = 0; written < data.length; ) written += writeSync(descriptor, data, written)
  if (!last) return {}
  open = undefined
  closeSync(descriptor)
  const digest = hash.digest('hex')
  if (digest !== sha256) {
    rmSync(partial)
    return { mismatch: { file, sha256: digest } }
  }
  renameSync(partial, file)
  return {}
}
