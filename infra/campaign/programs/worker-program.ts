// The worker as a process of its own, for `programOf`. Its settings are startWorker's.
import { type LocalWorkerOptions, startWorker } from '../../local/worker.ts'
import { readSettings } from '../program.ts'

// Wrangler's request logging costs CPU time and memory in the worker's process.
Object.assign(process.env, { X_LOCAL_OBSERVABILITY: 'false', X_LOCAL_EXPLORER: 'false' })
await startWorker(readSettings<LocalWorkerOptions>())
process.send!('ready')
