// The tables of docs/cost.md.

import { RETENTION_DAYS } from '../../edge/results/retention.ts'
import figures from './figures.json' with { type: 'json' }
import {
  type Case,
  type Cost,
  costOf,
  estimateColdSeconds,
  estimatePackageGigabytes,
  estimateServiceSeconds,
  GPUS,
  TIERS,
  VARIANTS,
  type Variant,
} from './model.ts'
import { computeMaxJobsPerDay, computeStorageBytes, LIMIT_BYTES, maxJobsPerDayOfDatabase } from './storage.ts'
import sizes from './storage-sizes.json' with { type: 'json' }

const VOLUMES = [10, 10_000, 10_000_000]
const IDLE = [30, 120, 600]

const formatDollars = (value: number) => `$${value < 0.01 ? value.toFixed(5) : value.toFixed(3)}`
const formatSeconds = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} s`
const formatPercent = (value: number) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`
const formatCount = (value: number) => value.toLocaleString('en-US')
const formatTable = (rows: readonly (readonly string[])[]) => {
  const [head, ...body] = rows.map((cells) => `| ${cells.join(' | ')} |`)
  return [head, `|${rows[0]!.map(() => '---').join('|')}|`, ...body].join('\n')
}

export const formatCostRow = (cost: Cost) => [
  formatDollars(cost.dollarsPerImage),
  formatSeconds(cost.p50),
  formatSeconds(cost.p95),
  formatPercent(cost.coldShare),
  formatPercent(cost.utilization),
  formatCount(cost.peakContainers),
]
export const COST_HEAD = ['per image', 'p50', 'p95', 'cold starts', 'utilization', 'max containers']

type Column = { head: string; format: (value: never) => string }
const COLUMNS: Partial<Record<keyof Case, Column>> = {
  ...{ variant: { head: 'variant', format: String }, tier: { head: 'tier', format: String } },
  ...{ imagesPerDay: { head: 'images per day', format: formatCount }, traffic: { head: 'traffic', format: String } },
  idleSeconds: { head: 'idle window', format: (value: number) => `${value} s` },
}
type Values = { [Key in keyof Case]?: readonly Case[Key][] }

/** A table of the cost of every combination of the values. The last field varies fastest; `fixed` applies to all rows. */
function sweep(values: Values, fixed: Partial<Case> = {}, extra: string[][] = []): string {
  const fields = Object.keys(values) as (keyof Case)[]
  const cases = fields.reduce<Partial<Case>[]>(
    (all, field) => all.flatMap((given) => values[field]!.map((value) => ({ ...given, [field]: value }))),
    [fixed],
  )
  const rows = cases.map((given) => [
    ...fields.map((field) => COLUMNS[field]!.format(given[field] as never)),
    ...formatCostRow(costOf(given as Case)),
  ])
  return formatTable([[...fields.map((field) => COLUMNS[field]!.head), ...COST_HEAD], ...rows, ...extra])
}

const BURSTY = { traffic: 'bursty' } as const
const compareVolumes = () => sweep({ variant: VARIANTS, imagesPerDay: VOLUMES, traffic: ['poisson', 'bursty'] })
const compareTiers = () => sweep({ tier: TIERS, imagesPerDay: VOLUMES }, BURSTY)

function compareIdleWindows(): string {
  const permanent = formatCostRow(costOf({ ...BURSTY, imagesPerDay: 10_000, minContainers: 1 }))
  const extra = [formatCount(10_000), 'one permanent container', ...permanent]
  return sweep({ imagesPerDay: VOLUMES, idleSeconds: IDLE }, BURSTY, [extra])
}

/** Dollars per image at each volume. */
const pricesOf = (given: Omit<Case, 'imagesPerDay'>) =>
  VOLUMES.map((imagesPerDay) => formatDollars(costOf({ ...given, imagesPerDay }).dollarsPerImage))

function compareGpus(): string {
  const rows = GPUS.map((gpu) => [
    ...[gpu, formatSeconds(estimateServiceSeconds('large-turbo', 'fp8', gpu)), ...pricesOf({ gpu })],
    figures.step_seconds[gpu].basis,
  ])
  const head = ['GPU', 'warm image', ...VOLUMES.map((volume) => `${formatCount(volume)} per day`), 'basis of times']
  return formatTable([head, ...rows])
}

function comparePublishedCosts(): string {
  const rows = figures.published.map(({ variant, who, dollars: price, date, source }) => {
    const ours = pricesOf({ ...BURSTY, variant: variant as Variant })
    return [variant, who, formatDollars(price), ...ours, date, source]
  })
  const ours = VOLUMES.map((volume) => `Octet, ${formatCount(volume)} per day`)
  return formatTable([['variant', 'provider', 'per image', ...ours, 'date', 'source'], ...rows])
}

function listCostInputs(): string {
  const rows = VARIANTS.flatMap((variant) =>
    TIERS.map((tier) => [
      ...[variant, tier, formatSeconds(estimateServiceSeconds(variant, tier, 'H100'))],
      ...[`${estimatePackageGigabytes(variant, tier)} GB`, formatSeconds(estimateColdSeconds(variant, tier))],
    ]),
  )
  return formatTable([['variant', 'tier', 'warm H100, 1024²', 'package', 'cold start'], ...rows])
}

const UNITS = [
  [1e12, 'TB'],
  [1e9, 'GB'],
  [1e6, 'MB'],
  [1e3, 'kB'],
] as const
function formatBytes(value: number): string {
  const [unit, name] = UNITS.find(([unit]) => value >= unit) ?? [1, 'bytes']
  const scaled = value / unit
  return `${scaled.toFixed(scaled < 10 && unit > 1 ? 1 : 0)} ${name}`
}

const DAILY_JOBS = 50_000

function compareRetention(): string {
  const rows = RETENTION_DAYS.map((retentionDays) => {
    const stored = computeStorageBytes(retentionDays)
    return [
      ...[`${retentionDays}`, formatBytes(stored.account * DAILY_JOBS)],
      ...[formatPercent((stored.account * DAILY_JOBS) / LIMIT_BYTES), formatBytes(stored.jobs * DAILY_JOBS)],
      ...[formatBytes(stored.images * DAILY_JOBS), formatCount(computeMaxJobsPerDay(retentionDays))],
    ]
  })
  const head = ['retention_days', 'AccountDO', 'of its limit', 'JobDOs', 'R2', 'max jobs per day']
  return formatTable([head, ...rows])
}

function listStorageSizes(): string {
  const { account, job, database } = sizes
  const rows = [
    ...Object.entries(account).map(([name, size]) => [`AccountDO, \`${name}\``, formatCount(size)]),
    ['JobDO, entire object', formatCount(job)],
    ...Object.entries(database).map(([name, size]) => [`D1, \`${name}\``, formatCount(size)]),
    ['R2, an image (assumption)', formatCount(figures.image_bytes.value)],
    ['D1, max jobs per day', formatCount(maxJobsPerDayOfDatabase())],
  ]
  return formatTable([['row or object', 'bytes'], ...rows])
}

/** Sections of the page, by name of their marker. */
export const SECTIONS: Record<string, () => string> = {
  ...{
    inputs: listCostInputs,
    byVolume: compareVolumes,
    byTier: compareTiers,
    byIdle: compareIdleWindows,
    byGpu: compareGpus,
    againstPublished: comparePublishedCosts,
  },
  ...{ storageByRetention: compareRetention, storageSizes: listStorageSizes },
}

/** The page with its generated sections replaced, each between two comments with its name. Throws if the page lacks one. */
export function fillPage(page: string, sections = SECTIONS): string {
  return Object.entries(sections).reduce((text, [name, section]) => {
    const place = new RegExp(`(<!-- ${name} -->\\n)[\\s\\S]*?(<!-- /${name} -->)`)
    if (!place.test(text)) throw new Error(`the page has no place for ${name}`)
    return text.replace(place, (_, before: string, after: string) => `${before}\n${section()}\n\n${after}`)
  }, page)
}
