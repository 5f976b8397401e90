// `npm run quality`: the effect of FP8, distillation and omitting T5 on image quality, with prompts that are not in the training data.
import { existsSync } from 'node:fs'
import fs from 'node:fs/promises'
import path from 'node:path'
import { SingleBar } from 'cli-progress'
import { Command, InvalidArgumentError, Option } from 'commander'
import { TIER_TABLE, TIERS } from '../../gpu-fn/contract.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { BUILT_IN_MODELS, type BuiltInModel, CHECKPOINTS } from '../local/models/built-in-model.ts'
import { writeContactSheet } from './contact-sheet.ts'
import { openJudge } from './judge.ts'
import { readHeldOutPrompts, readNaturalPrompts } from './prompts.ts'
import { type Column, formatTable, renderPage } from './report.ts'
import { type Configuration, makeImages } from './runs.ts'
import { judgeImages, judgeNatural, score } from './score.ts'

type Flags = { prompts: number; natural: number; only: readonly Configuration[]; out: string; sample: number }

/** The configurations, most precise first, because float32 is the reference of the others. */
const TIERS_BY_PRECISION = TIERS.toSorted((a, b) => TIER_TABLE[b].price - TIER_TABLE[a].price)
/** nano-flash is not offered to users; it is measured only if its weights exist. */
const MODELS: readonly BuiltInModel[] = [
  ...BUILT_IN_MODELS.toReversed(),
  ...(existsSync(CHECKPOINTS['nano-flash']) ? (['nano-flash'] as const) : []),
]
const CONFIGURATIONS: readonly Configuration[] = MODELS.flatMap((model) =>
  TIERS_BY_PRECISION.map((tier) => ({ name: `${model}-${tier}`, model, tier })),
)

function parseConfigurations(text: string): Configuration[] {
  const names = text.split(',')
  const unknown = names.find((name) => !CONFIGURATIONS.some((each) => each.name === name))
  if (unknown === undefined) return CONFIGURATIONS.filter(({ name }) => names.includes(name))
  throw new InvalidArgumentError(
    `unknown configuration "${unknown}"; choose from: ${CONFIGURATIONS.map(({ name }) => name).join(', ')}`,
  )
}

const flags = new Command('quality')
  .description('Measures nano: accuracy according to its judge, similarity to float32, duration and memory.')
  .option('--prompts <count>', 'number of prompts from the fixed set', parseWholeNumber, 400)
  .option('--natural <count>', 'number of natural prompts, all shown on the contact sheets', parseWholeNumber, 60)
  .addOption(
    new Option('--only <names>', 'comma-separated configurations, such as nano-fp32,nano-fp8')
      .argParser(parseConfigurations)
      .default(CONFIGURATIONS, 'all'),
  )
  .option('--out <directory>', 'output directory; an interrupted run is resumed', 'out/quality')
  .option('--sample <count>', 'number of prompts on the page', parseWholeNumber, 24)
  .parse()
  .opts<Flags>()

endOnSignals()
const all = await readHeldOutPrompts()
const prompts = all.slice(0, flags.prompts)
const allNatural = await readNaturalPrompts()
const naturalPrompts = allNatural.slice(0, flags.natural)
const judge = await openJudge()
const bar = new SingleBar({ format: '{name} |{bar}| {value} of {total} · {eta_formatted} left', clearOnComplete: true })
const columns: Column[] = []
const references = new Map<string, string>()
for (const configuration of flags.only) {
  bar.start(prompts.length + naturalPrompts.length, 0, { name: configuration.name.padEnd(19) })
  const make = (set: typeof all, count: number) =>
    makeImages(flags.out, configuration, set, count, () => bar.increment())
  const { directory, runs } = await make(all, prompts.length)
  const natural = await make(allNatural, naturalPrompts.length)
  bar.stop()
  if (configuration.tier === 'fp32') references.set(configuration.model, directory)
  const reference = configuration.tier === 'fp32' ? null : (references.get(configuration.model) ?? null)
  const judged = await judgeImages(judge, prompts, directory, reference)
  const shown = await judgeNatural(judge, naturalPrompts, natural.directory)
  const sheet = path.join(flags.out, `natural-${configuration.name}.jpg`)
  if (shown.length > 0) await writeContactSheet(sheet, naturalPrompts, shown, natural.directory)
  columns.push({ judged, score: score(configuration, prompts, judged, shown, runs) })
}
await judge.release()

const scores = columns.map((column) => column.score)
const write = (name: string, text: string) => fs.writeFile(path.join(flags.out, name), text)
await write('table.md', `${formatTable(scores)}\n`)
await write(
  'results.json',
  `${JSON.stringify({ scores, prompts, judged: columns.map(({ judged }) => judged) }, null, 1)}\n`,
)
await write('index.html', String(await renderPage(prompts, columns, flags.sample)))
console.log(
  `${formatTable(scores)}\n\n${prompts.length} prompts; comparison of images: ${path.resolve(flags.out, 'index.html')}`,
)
