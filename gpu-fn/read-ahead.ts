// A package's weights into the page cache while its graphs are opened: onnxruntime maps them and takes them page by page, which a disk
// answers at a fraction of its speed.
import { open } from 'node:fs/promises'
import path from 'node:path'
import { NETWORKS } from './compile/manifest.ts'
import type { Package } from './packages.ts'

const STREAMS = 4
const CHUNK = 4 * 2 ** 20
const REGION = 64 * 2 ** 20
/** Bytes a second from which on a chunk is taken to have been in the page cache: no disk is as fast. */
const CACHED_RATE = 4e9

export type ReadAhead = { /** Bytes that had to be read. */ bytes: number }

/**
 * Reads the weight files in the order in which they are opened, several stretches at a time, and passes over stretches that are in the
 * page cache already. An aborted signal ends it. It only hurries things up, so a file that cannot be read is passed over.
 */
export async function readAhead({ directory, manifest }: Package, signal: AbortSignal): Promise<ReadAhead> {
  let bytes = 0
  for (const network of NETWORKS) {
    const name = `${network}.weights`
    const size = manifest.files[name]?.bytes ?? 0
    if (size === 0) continue
    try {
      bytes += await readFile(path.join(directory, name), size, signal)
    } catch {}
    if (signal.aborted) break
  }
  return { bytes }
}

async function readFile(file: string, size: number, signal: AbortSignal): Promise<number> {
  await using handle = await open(file)
  const starts = Array.from({ length: Math.ceil(size / REGION) }, (_, i) => i * REGION)
  let bytes = 0
  const stream = async () => {
    const chunk = Buffer.allocUnsafe(CHUNK)
    for (let start = starts.shift(); start !== undefined; start = starts.shift()) {
      const end = Math.min(size, start + REGION)
      for (let at = start; at < end && !signal.aborted; at += CHUNK) {
        const begun = performance.now()
        const { bytesRead } = await handle.read(chunk, 0, Math.min(CHUNK, end - at), at)
        if (at === start && bytesRead / ((performance.now() - begun) / 1000) > CACHED_RATE) break
        bytes += bytesRead
      }
    }
  }
  await Promise.all(Array.from({ length: STREAMS }, stream))
  return bytes
}
