// A file that arrives in ranges, in any order. It has another name until it is whole and has its SHA-256.
import { randomBytes } from 'node:crypto'
import { writeSync } from 'node:fs'
import { type FileHandle, mkdir, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Hasher } from './hasher.ts'

export type Wanted = { key: string; file: string; bytes: number; sha256: string }

/** `written` of its bytes are in the file, from its start on. */
export type Range = { start: number; bytes: number; written: number }

/** What came does not have the SHA-256 that it should. */
export class CorruptDownload extends Error {
  override name = 'CorruptDownload' as const
}

/** How much more must be there before the hasher is told of it. */
const TELL_BYTES = 4 << 20

export type ArrivingFile = ReturnType<typeof createArrivingFile>

export function createArrivingFile({ key, file, bytes, sha256 }: Wanted, hasher: Hasher) {
  const partial = path.join(path.dirname(file), `.${randomBytes(8).toString('hex')}.part`)
  /** Those asked for, in order, from the first on that is not wholly written. */
  const ranges: Range[] = []
  let [asked, told] = [0, -1]
  let opening: Promise<FileHandle> | undefined

  async function openPartial(): Promise<FileHandle> {
    await mkdir(path.dirname(partial), { recursive: true })
    return await open(partial, 'wx')
  }

  /** Tells the hasher how much is there without a gap. */
  function tell(): void {
    while (ranges.length > 1 && ranges[0]!.written === ranges[0]!.bytes) ranges.shift()
    const there = ranges[0]!.start + ranges[0]!.written
    const whole = there === bytes
    if (told === bytes || (!whole && there - told < TELL_BYTES)) return
    told = there
    hasher.tell({ file: partial, bytes: there, whole })
  }

  return {
    key,
    /** The next range to ask for, of at most so many bytes; null when all were. An empty file has one of none. */
    next(most: number): Range | null {
      if (asked === bytes && opening) return null
      opening ??= openPartial()
      opening.catch(() => {}) // whoever writes next is told
      const range = { start: asked, bytes: Math.min(most, bytes - asked), written: 0 }
      asked += range.bytes
      ranges.push(range)
      return range
    },
    /** Writes what comes next of a range. */
    async write(range: Range, block: Uint8Array): Promise<void> {
      const handle = await opening!
      for (let done = 0; done < block.length; ) {
        // A copy to the page cache, for which handing it to another thread costs as much again.
        const bytesWritten = writeSync(handle.fd, block, done, block.length - done, range.start + range.written)
        done += bytesWritten
        range.written += bytesWritten
      }
      tell()
    },
    /** Resolves when the file is in its place. Throws CorruptDownload. */
    async placed(): Promise<void> {
      const digest = await hasher.digestOf(partial)
      if (digest !== sha256) throw new CorruptDownload(`${path.basename(file)} came with the SHA-256 ${digest}`)
      await (await opening!).close()
      await rename(partial, file)
    },
    /** Lets go of what is not in its place. Nothing may be written any more. */
    async discard(): Promise<void> {
      await opening?.then((handle) => handle.close()).catch(() => {})
      await rm(partial, { force: true })
    },
  }
}
