// A file that is downloaded in ranges, in any order. It has a temporary name until it is complete and its SHA-256 is verified.
import { randomBytes } from 'node:crypto'
import { writeSync } from 'node:fs'
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Hasher } from '../hasher.ts'

export type PackageFile = { key: string; file: string; bytes: number; sha256: string }

/** `written`: bytes of the range in the file, from its start. */
export type Range = { start: number; bytes: number; written: number }

/** A downloaded file does not have the expected SHA-256. */
export class CorruptDownload extends Error {
  override name = 'CorruptDownload' as const
}

/** Minimum number of new bytes per update of the hasher. */
const UPDATE_BYTES = 4 << 20

export type ArrivingFile = ReturnType<typeof createArrivingFile>

export function createArrivingFile({ key, file, bytes, sha256 }: PackageFile, hasher: Hasher) {
  const partial = path.join(path.dirname(file), `.${randomBytes(8).toString('hex')}.part`)
  /** Requested ranges in order, from the first incomplete one. */
  const ranges: Range[] = []
  let [requested, reported] = [0, -1]
  let opening: Promise<FileHandle> | undefined

  async function openPartial(): Promise<FileHandle> {
    await mkdir(path.dirname(partial), { recursive: true })
    return await open(partial, 'wx')
  }

  /** Reports the contiguous bytes from the start of the file to the hasher. */
  function updateHasher(): void {
    while (ranges.length > 1 && ranges[0]!.written === ranges[0]!.bytes) ranges.shift()
    const contiguous = ranges[0]!.start + ranges[0]!.written
    const complete = contiguous === bytes
    if (reported === bytes || (!complete && contiguous - reported < UPDATE_BYTES)) return
    reported = contiguous
    hasher.update({ file: partial, bytes: contiguous, complete })
  }

  return {
    key,
    /** The next range to request, of at most `max` bytes; null if all were requested. An empty file has one empty range. */
    next(max: number): Range | null {
      if (requested === bytes && opening) return null
      opening ??= openPartial()
      opening.catch(() => {}) // the next write throws it
      const range = { start: requested, bytes: Math.min(max, bytes - requested), written: 0 }
      requested += range.bytes
      ranges.push(range)
      return range
    },
    /** Appends a block to a range. */
    async write(range: Range, block: Uint8Array): Promise<void> {
      const handle = await opening!
      for (let done = 0; done < block.length; ) {
        // Synchronous: a copy to the page cache takes no longer than passing it to another thread.
        const bytesWritten = writeSync(handle.fd, block, done, block.length - done, range.start + range.written)
        done += bytesWritten
        range.written += bytesWritten
      }
      updateHasher()
    },
    /** Resolves when the file is verified and renamed. Throws CorruptDownload. */
    async placed(): Promise<void> {
      const digest = await hasher.digestOf(partial)
      if (digest !== sha256) throw new CorruptDownload(`${path.basename(file)} has the SHA-256 ${digest}`)
      await (await opening!).close()
      await rename(partial, file)
    },
    /** Shows other processes that the download continues. */
    touch(): void {
      opening?.then((handle) => handle.utimes(new Date(), new Date())).catch(() => {}) // it may be closed
    },
    /** Removes an incomplete file. Not during a write. */
    async discard(): Promise<void> {
      await opening?.then((handle) => handle.close()).catch(() => {})
      await rm(partial, { force: true })
    },
  }
}
