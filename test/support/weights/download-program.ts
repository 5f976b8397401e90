// A process that downloads a package, unless it is killed before or its disk is full.
import { pino } from 'pino'
import { openBucket } from '../../../gpu-fn/weights/bucket.ts'
import { PackageCache } from '../../../gpu-fn/weights/cache.ts'
import type { PackageName } from '../../../gpu-fn/weights/layout.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'

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
const { digest } = await cache.ensure(name)
console.log(digest)
