// The worker as a process of its own, for `programOf`. Its settings are startWorker's.
import { type LocalWorkerOptions, startWorker } from '../local-worker.ts'

// Wrangler's own record of every request takes time and memory of the worker's process.
Object.assign(process.env, { X_LOCAL_OBSERVABILITY: 'false', X_LOCAL_EXPLORER: 'false' })
await startWorker(JSON.parse(process.argv[2]!) as LocalWorkerOptions)
process.send!('ready')
