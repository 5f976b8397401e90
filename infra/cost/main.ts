// `npm run cost`: what a picture costs. Without options the tables of docs/cost.md; with them one case.
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command, Option } from 'commander'
import { wholeNumber } from '../whole-number.ts'
import { type Case, costOf, GPUS, TIERS, VARIANTS } from './model.ts'
import { fillPage } from './page.ts'
import { COST_HEAD, costRow, SECTIONS } from './tables.ts'
import { TRAFFIC } from './traffic.ts'

const PAGE = path.join(import.meta.dirname, '../../docs/cost.md')

type Flags = Partial<Omit<Case, 'imagesPerDay' | 'idleSeconds'>> & {
  images?: number
  idle: number
  warm: number
  write?: boolean
}

async function main(flags: Flags): Promise<void> {
  if (flags.write) return writeFile(PAGE, fillPage(await readFile(PAGE, 'utf8')))
  if (flags.images === undefined) {
    for (const [name, section] of Object.entries(SECTIONS)) console.log(`${name}\n\n${section()}\n`)
    return
  }
  const { variant = 'large-turbo', tier = 'fp8', gpu = 'H100', traffic = 'poisson', seed = 1 } = flags
  const base = { variant, tier, gpu, traffic, seed, minContainers: flags.warm }
  const row = costRow(costOf({ ...base, imagesPerDay: flags.images, idleSeconds: flags.idle }))
  for (const [k, name] of COST_HEAD.entries()) console.log(`${name.padEnd(16)} ${row[k]}`)
}

const command = new Command('cost')
  .description('What a picture costs, simulated; figures and their sources are in infra/cost/figures.json.')
  .addOption(new Option('--variant <name>').choices(VARIANTS))
  .addOption(new Option('--tier <name>').choices(TIERS))
  .addOption(new Option('--gpu <name>').choices(GPUS))
  .addOption(new Option('--traffic <kind>').choices(TRAFFIC))
  .option('--images <count>', 'a day', wholeNumber)
  .option('--idle <seconds>', 'how long a container without work stays', wholeNumber, 120)
  .option('--warm <count>', 'containers that always stay', wholeNumber, 0)
  .option('--seed <number>', 'of the traffic', wholeNumber, 1)
  .option('--write', 'bring docs/cost.md up to date')

await main(command.parse().opts<Flags>())
