// `npm run cost`: cost per image. Prints the tables of docs/cost.md, or one case with options.
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { parseWholeNumber } from '../command/whole-number.ts'
import { measureStorage } from './measure-storage.ts'
import { type Case, costOf, DEFAULTS, GPUS, TIERS, VARIANTS } from './model.ts'
import type { StorageCase } from './storage.ts'
import { COST_HEAD, costRow, fillPage, SECTIONS, STORAGE, STORAGE_HEAD, storageRows } from './tables.ts'
import { TRAFFIC } from './traffic.ts'

const SIZES = path.join(import.meta.dirname, 'storage-sizes.json')
/** Enough to make partially filled pages negligible. */
const MEASURED_JOBS = 1000
const PAGE = path.join(import.meta.dirname, '../../docs/cost.md')

type Flags = Omit<Case, 'imagesPerDay' | 'idleSeconds' | 'minContainers'> &
  Omit<StorageCase, 'retentionDays'> & {
    images?: number
    idle: number
    warm: number
    retention: number
    write?: boolean
    storage?: boolean
    measure?: boolean
  }

const align = (head: readonly string[], row: readonly string[]) =>
  head.map((name, k) => `${name.padEnd(16)} ${row[k]}`).join('\n')

async function main(flags: Flags): Promise<void> {
  const { variant, tier, gpu, traffic, seed, images, idle: idleSeconds, warm: minContainers, ...others } = flags
  if (others.write) return writeFile(PAGE, fillPage(await readFile(PAGE, 'utf8')))
  if (others.measure) return writeFile(SIZES, `${JSON.stringify(await measureStorage(MEASURED_JOBS), null, 2)}\n`)
  if (others.storage) {
    const rows = storageRows({ ...others, retentionDays: others.retention })
    console.log(rows.map((row) => align(STORAGE_HEAD, row)).join('\n\n'))
  } else if (images === undefined) {
    for (const [name, section] of Object.entries(SECTIONS)) console.log(`${name}\n\n${section()}\n`)
  } else {
    const given = { variant, tier, gpu, traffic, seed, imagesPerDay: images, idleSeconds, minContainers }
    console.log(align(COST_HEAD, costRow(costOf(given as Case))))
  }
}

const command = new Command('cost')
  .description('Simulates the cost per image. Inputs and their sources are in infra/cost/figures.json.')
  .addOption(new Option('--variant <name>').choices(VARIANTS).default(DEFAULTS.variant))
  .addOption(new Option('--tier <name>').choices(TIERS).default(DEFAULTS.tier))
  .addOption(new Option('--gpu <name>').choices(GPUS).default(DEFAULTS.gpu))
  .addOption(new Option('--traffic <kind>').choices(TRAFFIC).default(DEFAULTS.traffic))
  .option('--images <count>', 'images per day', parseWholeNumber)
  .option('--idle <seconds>', 'idle time before a container ends', parseWholeNumber, DEFAULTS.idleSeconds)
  .option('--warm <count>', 'permanent containers', parseWholeNumber, DEFAULTS.minContainers)
  .option('--seed <number>', 'seed of the traffic', parseWholeNumber, DEFAULTS.seed)
  .option('--storage', 'storage used by the jobs of one account: peak, last day, and permanent')
  .option('--measure', 'measure the row sizes for --storage with a local worker')
  .option('--write', 'update docs/cost.md')
for (const [flag, meaning, value] of [
  ['--jobs <count>', 'total number of jobs', STORAGE.jobs],
  ['--years <count>', 'period over which they arrive', STORAGE.years],
  ['--retention <days>', 'retention_days of the account', STORAGE.retentionDays],
  ['--busiest <ratio>', 'jobs in the busiest month relative to the mean', STORAGE.busiest],
  ['--keys <count>', 'API keys in use', STORAGE.keys],
] as const)
  command.option(flag, `with --storage: ${meaning}`, parseWholeNumber, value)

await main(command.parse().opts<Flags>())
