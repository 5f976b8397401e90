// Packages on a disk that are not in the page cache.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs/promises'
import path from 'node:path'
import { loadLibrary } from '../../../gpu-fn/runtime/ffi.ts'

/** POSIX_FADV_DONTNEED */
const DO_NOT_NEED = 4

/** Copies packages to a disk and empties the page cache; without the permission for that, evicts only their files. */
export async function copyCold(packages: string, directory: string): Promise<void> {
  await fs.cp(packages, directory, { recursive: true })
  // Only written pages can be evicted.
  spawnSync('sync')
  try {
    await fs.writeFile('/proc/sys/vm/drop_caches', '3')
  } catch {
    console.error('the page cache cannot be emptied without root; only the files of the package are evicted')
    await evict(directory)
  }
}

/** Evicts all files of a directory from the page cache. */
export async function evict(directory: string): Promise<void> {
  const advise = loadLibrary(null).func('int posix_fadvise(int file, int64_t start, int64_t bytes, int advice)')
  for (const entry of await fs.readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    await using file = await fs.open(path.join(entry.parentPath, entry.name))
    const error = advise(file.fd, 0, 0, DO_NOT_NEED)
    if (error !== 0) throw new Error(`${entry.name} cannot be evicted: error ${error}`)
  }
}
