// `npm run campaign`: runs the crash campaign and prints its outcome.
import { randomInt } from 'node:crypto'
import { Command } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/numbers.ts'

const PROBLEMS_SHOWN = 50

endOnSignals()
const { jobs, seed } = new Command('campaign')
  .description('Runs thousands of jobs while processes are killed and objects are reset, then audits all records.')
  .option('--jobs <count>', 'number of callers, most of whom create a job', parseWholeNumber, 3000)
  .option('--seed <number>', 'seed of all faults; random by default', parseWholeNumber, randomInt(2 ** 32))
  .parse()
  .opts<{ jobs: number; seed: number }>()

console.log(`seed ${seed}`)
// Loaded after the options, so that --help works without the development dependencies.
const { runCampaign } = await import('./campaign.ts')
const start = performance.now()
const { counts, problems, directory } = await runCampaign({ jobs, seed, onProgress: console.log })
for (const [label, count] of Object.entries(counts)) console.log(`${String(count).padStart(10)}  ${label}`)
console.log(`${problems.length} problems after ${Math.round((performance.now() - start) / 1000)} s`)
for (const problem of problems.slice(0, PROBLEMS_SHOWN)) console.log(problem)
if (directory) console.log(`The logs and databases of the processes are in ${directory}`)
// Requests of abandoned callers may still be open.
process.exit(problems.length === 0 ? 0 : 1)
