// `npm run campaign`: the crash campaign at any length, and what came of it.
import { randomInt } from 'node:crypto'
import { Command } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { wholeNumber } from '../command/whole-number.ts'
import { runCampaign } from './campaign.ts'

const PROBLEMS_SHOWN = 50

endOnSignals()
const { jobs, seed } = new Command('campaign')
  .description('Runs thousands of jobs while processes are killed and objects are reset, then audits all records.')
  .option('--jobs <count>', 'callers, nearly all of whom make a job', wholeNumber, 3000)
  .option('--seed <number>', 'chooses every fault; a new one unless given', wholeNumber, randomInt(2 ** 32))
  .parse()
  .opts<{ jobs: number; seed: number }>()

console.log(`seed ${seed}`)
const start = performance.now()
const { counts, problems, directory } = await runCampaign({ jobs, seed, onProgress: console.log })
for (const [what, count] of Object.entries(counts)) console.log(`${String(count).padStart(10)}  ${what}`)
console.log(`${problems.length} problems after ${Math.round((performance.now() - start) / 1000)} s`)
for (const problem of problems.slice(0, PROBLEMS_SHOWN)) console.log(problem)
if (directory) console.log(`The logs and databases of the processes are in ${directory}`)
// Callers that were given up may still be asking.
process.exit(problems.length === 0 ? 0 : 1)
