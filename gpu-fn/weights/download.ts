// Objects of a bucket ► files, many ranges at a time. What has a name on disk is whole and has its SHA-256.
import { type ArrivingFile, createArrivingFile, type Range, type Wanted } from './arriving-file.ts'
import type { Bucket } from './bucket.ts'
import { openHasher } from './hasher.ts'

export type DownloadOptions = {
  /** The most requests at a time. */
  connections?: number
  /** How far apart what is asked for at a time may lie: it must be read back from the page cache, and what a request costs wants long ranges. */
  spreadBytes?: number
  onProgress?: (bytes: number) => void
}

/** Some fill the pauses of the others. */
const CONNECTIONS_AT_FIRST = 4
/** Twice as many requests at a time as long as that brings a tenth more: each costs CPU, and a distant bucket needs many. */
const GROW_EVERY_MS = 500
const WORTH_IT = 1.1
/** Not even the last ranges are shorter than this share of the spread. */
const SHORTEST = 1 / 16

/**
 * Downloads every file, each put in place in one rename as soon as it is whole. Throws CorruptDownload, BucketError, or what the disk says;
 * files that were whole by then stay, everything else is gone.
 */
export async function download(
  bucket: Bucket,
  wanted: readonly Wanted[],
  options: DownloadOptions = {},
): Promise<void> {
  const { connections = 16, spreadBytes = 256 << 20, onProgress } = options
  const hasher = openHasher()
  const files = wanted.map((each) => createArrivingFile(each, hasher))
  const failed = new AbortController()
  const fetched: Promise<void>[] = []
  let open = 0
  let [turn, bytesLeft, bytesDone] = [0, wanted.reduce((sum, { bytes }) => sum + bytes, 0), 0]

  /** The connections share the spread, or half of what is left, so that all end together. */
  function nextRange(): { file: ArrivingFile; range: Range } | null {
    const most = Math.ceil(Math.max(Math.min(spreadBytes, bytesLeft / 2) / open, spreadBytes * SHORTEST))
    for (; turn < files.length; turn++) {
      const file = files[turn]!
      const range = file.next(most)
      if (!range) continue
      bytesLeft -= range.bytes
      return { file, range }
    }
    return null
  }

  async function fetchRanges(index: number): Promise<void> {
    while (index < open) {
      const next = nextRange()
      if (!next) return
      const { file, range } = next
      for await (const block of bucket.readRange(file.key, range.start, range.bytes, failed.signal)) {
        await file.write(range, block)
        bytesDone += block.length
        onProgress?.(block.length)
      }
      if (range.bytes === 0) await file.write(range, new Uint8Array())
    }
  }

  /** Has `count` requests at a time from now on. */
  function connect(count: number): void {
    open = Math.min(count, connections)
    for (let index = fetched.length; index < open; index++) {
      const done = fetchRanges(index)
      // Awaited when all of them are; until then a failure must not be one that nobody handles.
      done.catch((error) => failed.abort(error))
      fetched.push(done)
    }
  }

  const placed = Promise.all(files.map((file) => file.placed()))
  connect(CONNECTIONS_AT_FIRST)
  const growth = growWhileItPays(() => bytesDone, connect)
  try {
    await Promise.race([placed, aborted(failed.signal)])
  } catch (error) {
    failed.abort(error)
    throw error
  } finally {
    clearInterval(growth)
    await Promise.allSettled(fetched)
    await hasher.close()
    await Promise.all(files.map((file) => file.discard()))
  }
}

const aborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))

/** Doubles the connections each time the last doubling paid, and takes back the one that did not. */
function growWhileItPays(bytesDone: () => number, connect: (count: number) => void): NodeJS.Timeout {
  let [count, before, best] = [CONNECTIONS_AT_FIRST, 0, 0]
  const timer = setInterval(() => {
    const rate = bytesDone() - before
    before = bytesDone()
    if (rate < best * WORTH_IT) {
      connect(Math.max(CONNECTIONS_AT_FIRST, count / 2))
      return clearInterval(timer)
    }
    best = rate
    count *= 2
    connect(count)
  }, GROW_EVERY_MS)
  return timer
}
