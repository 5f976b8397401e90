// The bucket of a benchmark as a process of its own: it tells its address and serves until it is ended.
import { startBucket } from '../local/bucket.ts'

process.send!((await startBucket(process.argv[2]!)).address)
process.on('disconnect', () => process.exit())
