// A bucket in a separate process, which sends its address to its parent.
import { startBucket } from '../local/servers/bucket.ts'

process.send!((await startBucket(process.argv[2]!)).address)
process.on('disconnect', () => process.exit())
