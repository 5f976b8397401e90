// `npm run cost`: cost per image. Prints the tables of docs/cost.md, or one case with options.
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { parseWholeNumber } from '../command/whole-number.ts'
import { measureStorage } from './measure-storage.ts'
import { type Case, costOf, GPUS, TIERS, VARIANTS } from './model.ts'
import { COST_HEAD, costRow, fillPage, SECTIONS, STORAGE, STORAGE_HEAD, storageRows } from './tables.ts'
import { TRAFFIC } from './traffic.ts'

const SIZES = path.join(import.meta.dirname, 'storage-sizes.json')
/** Enough to make partially filled pages negligible. */
const MEASURED_JOBS = 1000
const PAGE = path.join(import.meta.dirname, '../../docs/cost.md')

type Flags = Partial<Omit<Case, 'imagesPerDay' | 'idleSeconds'>> & {
  images?: number
  idle: number
  warm: number
  write?: boolean
  storage?: boolean
  measure?: boolean
  jobs: number
  years: number
  retention: number
  busiest: number
  keys: number
}

const align = (head: readonly string[], row: readonly string[]) =>
  head.map((name, k) => `${name.padEnd(16)} ${row[k]}`).join('\n')

async function main(flags: Flags): Promise<void> {
  if (flags.write) return writeFile(PAGE, fillPage(await readFile(PAGE, 'utf8')))
  if (flags.measure) return writeFile(SIZES, `${JSON.stringify(await measureStorage(MEASURED_JOBS), null, 2)}\n`)
  if (flags.storage) {
    const { jobs, years, retention: retentionDays, busiest, keys } = flags
    const rows = storageRows({ jobs, years, retentionDays, busiest, keys })
    return console.log(rows.map((row) => align(STORAGE_HEAD, row)).join('\n\n'))
  }
  if (flags.images === undefined) {
    for (const [name, section] of Object.entries(SECTIONS)) console.log(`${name}\n\n${section()}\n`)
    return
  }
  const { variant = 'large-turbo', tier = 'fp8', gpu = 'H100', traffic = 'poisson', seed = 1 } = flags
  const base = { variant, tier, gpu, traffic, seed, minContainers: flags.warm }
  const row = costRow(costOf({ ...base, imagesPerDay: flags.images, idleSeconds: flags.idle }))
  console.log(align(COST_HEAD, row))
}

const command = new Command('cost')
  .description('Simulates the cost per image. Inputs and their sources are in infra/cost/figures.json.')
  .addOption(new Option('--variant <name>').choices(VARIANTS))
  .addOption(new Option('--tier <name>').choices(TIERS))
  .addOption(new Option('--gpu <name>').choices(GPUS))
  .addOption(new Option('--traffic <kind>').choices(TRAFFIC))
  .option('--images <count>', 'images per day', parseWholeNumber)
  .option('--idle <seconds>', 'idle time before a container ends', parseWholeNumber, 120)
  .option('--warm <count>', 'permanent containers', parseWholeNumber, 0)
  .option('--seed <number>', 'seed of the traffic', parseWholeNumber, 1)
  .option('--storage', 'storage used by the jobs of one account: peak, last day, and permanent')
  .option('--jobs <count>', 'with --storage: total number of jobs', parseWholeNumber, STORAGE.jobs)
  .option('--years <count>', 'with --storage: period over which they arrive', parseWholeNumber, STORAGE.years)
  .option(
    '--retention <days>',
    'with --storage: retention_days of the account',
    parseWholeNumber,
    STORAGE.retentionDays,
  )
  .option(
    '--busiest <ratio>',
    'with --storage: jobs in the busiest month relative to the mean',
    parseWholeNumber,
    STORAGE.busiest,
  )
  .option('--keys <count>', 'with --storage: API keys in use', parseWholeNumber, STORAGE.keys)
  .option('--measure', 'measure the row sizes for --storage with a local worker')
  .option('--write', 'update docs/cost.md')

await main(command.parse().opts<Flags>())
