// Packages on a disk that are not in the page cache.
import { spawnSync } from 'node:child_process'
import fs from 'node:fs/promises'
import path from 'node:path'

/** Copies packages to a disk, then empties the page cache, or, without root, evicts their files from it. */
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
async function evict(directory: string): Promise<void> {
  for (const entry of await fs.readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    // With count=0, GNU dd evicts the whole file.
    const file = path.join(entry.parentPath, entry.name)
    const { status } = spawnSync('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none'], { stdio: 'inherit' })
    if (status !== 0) throw new Error(`${file} cannot be evicted from the page cache`)
  }
}
