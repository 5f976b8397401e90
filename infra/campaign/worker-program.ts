// The worker as a process of its own, for `programOf`. Its settings are startWorker's.
import { type LocalWorkerOptions, startWorker } from '../local-worker.ts'

await startWorker(JSON.parse(process.argv[2]!) as LocalWorkerOptions)
process.send!('ready')
