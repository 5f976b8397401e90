// The worker as a separate process, for `createProgram`. Its settings are those of startWorker.
import { type LocalWorkerOptions, startWorker } from '../../local/servers/worker.ts'
import { readSettings } from '../program.ts'

// Wrangler's request logging costs CPU time and memory in the worker's process.
Object.assign(process.env, { X_LOCAL_OBSERVABILITY: 'false', X_LOCAL_EXPLORER: 'false' })
await startWorker(readSettings<LocalWorkerOptions>())
process.send!('ready')
