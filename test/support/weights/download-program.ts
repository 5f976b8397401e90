// A process that downloads a package, unless it is killed before or its disk is full. Aborts if one of the files in the package's
// directory is corrupt during the download.
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { pino } from 'pino'
import type { Package } from '../../../gpu-fn/manifest.ts'
import { PackageCache } from '../../../gpu-fn/weights/cache.ts'
import { waitForFiles } from '../../../gpu-fn/weights/download/arrival.ts'
import { openBucket } from '../../../gpu-fn/weights/download/bucket.ts'
import type { PackageName } from '../../../gpu-fn/weights/layout.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import { sha256 } from '../../../infra/checkpoints/fake-package.ts'

/** `stallMs`: the longest silence of the bucket. */
export type Task = { directory: string; url: string; budgetBytes: number; name: PackageName; stallMs?: number }

const { directory, url, budgetBytes, name, stallMs = 200 } = JSON.parse(process.argv[2]!) as Task
const keys = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER', region: 'us-east-1' }
const log = pino({ level: 'silent' })
const cache = new PackageCache({
  directory,
  budgetBytes,
  bucket: openBucket({ url, ...keys }, { stallMs, tries: 8, pauseMs: 5 }),
  verifier: new Verifier({ directory, log }),
  log,
  download: { connections: 3, spreadBytes: 192 * 1024 },
})
const { package: pkg, complete } = await cache.begin(name)
const read = readFiles(pkg)
await complete
await read
console.log(pkg.digest)

/** Reads each file once it is in the directory. After a failed download, the other files are not read. */
async function readFiles({ directory: at, manifest, ...rest }: Package): Promise<void> {
  for (const [file, expected] of Object.entries(manifest.files)) {
    const isThere = await waitForFiles({ directory: at, manifest, ...rest }, (each) => each === file).then(
      () => true,
      () => false,
    )
    const bytes = isThere ? await readFile(path.join(at, file)).catch(() => null) : null
    if (bytes && sha256(bytes) !== expected.sha256) process.abort()
  }
}
