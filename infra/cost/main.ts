// `npm run cost`: cost per image. Prints the tables of docs/cost.md, or one case with options.
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { printIdle } from './idle.ts'
import { measureStorage } from './measure-storage.ts'
import { type Case, costOf, DEFAULTS, GPUS, TIERS, VARIANTS } from './model.ts'
import { printRouting } from './routing.ts'
import { COST_HEAD, fillPage, formatCostRow, SECTIONS } from './tables.ts'
import { TRAFFIC } from './traffic.ts'

const SIZES = path.join(import.meta.dirname, 'storage-sizes.json')
/** Enough to make partially filled pages negligible. */
const MEASURED_JOBS = 1000
const PAGE = path.join(import.meta.dirname, '../../docs/cost.md')

type Flags = Omit<Case, 'imagesPerDay' | 'idleSeconds' | 'minContainers'> & {
  images?: number
  idle: number
  warm: number
  write?: boolean
  measure?: boolean
  idleWindows?: boolean
  routing?: boolean
}

async function main({ images, idle, warm, write, measure, idleWindows, routing, ...given }: Flags): Promise<void> {
  if (routing) return printRouting()
  if (idleWindows) return printIdle()
  if (write) return writeFile(PAGE, fillPage(await readFile(PAGE, 'utf8')))
  if (measure) return writeFile(SIZES, `${JSON.stringify(await measureStorage(MEASURED_JOBS), null, 2)}\n`)
  if (images === undefined) {
    for (const [name, section] of Object.entries(SECTIONS)) console.log(`${name}\n\n${section()}\n`)
    return
  }
  const row = formatCostRow(costOf({ ...given, imagesPerDay: images, idleSeconds: idle, minContainers: warm }))
  for (const [k, name] of COST_HEAD.entries()) console.log(`${name.padEnd(16)} ${row[k]}`)
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
  .option('--measure', 'measure the row sizes of docs/cost.md with a local worker')
  .option('--idle-windows', 'the adaptive idle window against fixed ones')
  .option('--routing', 'containers behind a load balancer, with and without the hint octet-model')
  .option('--write', 'update docs/cost.md')

endOnSignals()
await main(command.parse().opts<Flags>())
