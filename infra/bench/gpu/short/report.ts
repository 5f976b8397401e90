// The report of `npm run bench -- gpu --short`: Markdown tables of GPU properties and measurements.
import os from 'node:os'
import { ROOT } from '../../../local/models/package-cache.ts'
import type { Figure } from '../plan.ts'
import type { Card } from './card.ts'

export type Report = {
  readonly card: Card
  readonly figures: readonly Figure[]
  /** Model variants for the step and the images, each with the reason for its choice. */
  readonly step: { readonly variant: string; readonly size: string; readonly reason: string }
  readonly images: { readonly variant: string; readonly reason: string }
  readonly target: { readonly name: string; readonly reason: string }
  readonly sizes: readonly string[]
  readonly fullSizes: readonly string[]
  /** Steps per image at full quality, with guidance. */
  readonly steps: number
  /** Markdown table of operator throughput; null if it was not measured. */
  readonly rates: string | null
}

type Find = (system: string, metric: string, size?: string | null) => Figure | undefined

const formatSeconds = (value: number) => `${value.toFixed(2)} s`
const formatMilliseconds = (value: number) => `${value.toFixed(1)} ms`
const formatMib = (value: number) => `${Math.round(value).toLocaleString('en-US')} MiB`
const joinLines = (text: string) =>
  text
    .replace(/^Error: /, '')
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean)
    .join(' ')
    .replaceAll('|', '\\|')
const formatSize = (size: string) => size.replace(/^(\d+)x\1$/, '$1²')

export function reportOf(report: Report): string {
  const { card, figures, rates } = report
  const rows = [...formatAboutRows(report), ...formatFigureRows(report)]
  const failed = figures.filter(({ system, metric }) => system === 'kernels' && metric === 'case')
  const reason = reasonOf(figures, 'operators') ?? 'no rates'
  return [
    `## ${card.gpu}`,
    ['| | |', '|---|---|', ...rows.map(([title, text]) => `| ${title} | ${text} |`)].join('\n'),
    ...(failed.length > 0
      ? [`Out of tolerance:\n\n${failed.map(({ error }) => `- ${joinLines(error!)}`).join('\n')}`]
      : []),
    rates ?? `Rates of the operators: not measured: ${reason}`,
  ].join('\n\n')
}

const formatAboutRows = ({ card, target }: Report): [string, string][] => [
  ['compute capability', card.capability],
  ['memory', card.memoryMib === null ? 'unknown' : formatMib(card.memoryMib)],
  ['driver; newest CUDA of the driver', `${card.driver}; ${card.cuda}`],
  ['host', card.host],
  ['Octet', card.octet],
  ['target', `${target.name} (${target.reason})`],
]

function formatFigureRows({ figures, step, images, sizes, fullSizes, steps }: Report): [string, string][] {
  const find: Find = (system, metric, size) =>
    figures.findLast(
      (each) => each.system === system && each.metric === metric && (size === undefined || each.size === size),
    )
  const formatCell = (system: string, metric: string, format: (value: number) => string, size?: string) => {
    const value = find(system, metric, size)?.value
    return value == null ? `not measured: ${reasonOf(figures, system, metric, size) ?? 'no figure'}` : format(value)
  }
  const first = sizes[0]!
  const formatStarted = (metric: string) => formatCell('images', metric, formatSeconds)
  const what = `${step.variant}, ${formatSize(step.size)}`
  return [
    ['FP8 operators within tolerance, native and portable', formatKernelsCell(figures, find)],
    [`step of ${what}, FP8 products (${step.reason})`, formatCell('step', 'fp8_ms', formatMilliseconds)],
    [`step of ${what}, 16-bit products`, formatCell('step', 'half_ms', formatMilliseconds)],
    ['GPU memory in use, peak of the step', formatCell('step', 'peak_mib', formatMib)],
    ['model of the images', `${images.variant}, fp8, random weights (${images.reason})`],
    ['checkpoint and package', formatPackageCell(figures, find)],
    ['GPU function: start → listening', formatStarted('start_listening_s')],
    ['→ weights loaded', formatStarted('start_loaded_s')],
    ['→ warm and ready', formatStarted('start_ready_s')],
    [`→ first image of ${formatSize(first)}, 4 steps`, formatStarted('first_image_s')],
    ...sizes.map((size): [string, string] => [
      `warm image of ${formatSize(size)}, 4 steps`,
      formatCell('images', 'turbo_s', formatSeconds, size),
    ]),
    ...fullSizes.map((size): [string, string] => [
      `warm image of ${formatSize(size)}, ${steps} steps with guidance`,
      formatCell('images', 'full_s', formatSeconds, size),
    ]),
    ['GPU memory in use before the start', formatCell('images', 'peak_mib_before', formatMib)],
    ['GPU memory in use, peak of start and images', formatPeakCell(figures)],
  ]
}

function formatKernelsCell(figures: readonly Figure[], find: Find): string {
  const [passed, results] = ['passed', 'results'].map((metric) => find('kernels', metric)?.value)
  const problem = reasonOf(figures, 'kernels')
  if (results == null) return `not measured: ${problem ?? 'no figure'}`
  return `${passed} of ${results}${problem ? `; ${problem}` : ''}`
}

function formatPackageCell(figures: readonly Figure[], find: Find): string {
  if (find('package', 'existing')) return 'existed'
  const seconds = find('package', 'make_s')?.value
  return seconds == null ? `not made: ${reasonOf(figures, 'images') ?? 'no figure'}` : formatSeconds(seconds)
}

function formatPeakCell(figures: readonly Figure[]): string {
  const peaks = figures.flatMap(({ system, metric, value }) =>
    system === 'images' && metric.startsWith('peak_mib_') && value !== null ? [value] : [],
  )
  return peaks.length > 0
    ? formatMib(Math.max(...peaks))
    : `not measured: ${reasonOf(figures, 'images') ?? 'no figure'}`
}

/** Removes absolute paths of the checkout and the home directory, which occur in error messages. */
export const removePaths = (text: string): string =>
  text.replaceAll(`${ROOT}/`, '').replaceAll(`${os.homedir()}/`, '~/')

/** Error of a figure, or else of the part of the report that contains it. */
function reasonOf(figures: readonly Figure[], system: string, metric = 'run', size?: string): string | undefined {
  const failures = figures.filter((each) => each.system === system && each.error !== undefined)
  const own = failures.find((each) => each.metric === metric && (size === undefined || each.size === size))
  const error = (own ?? failures.find((each) => each.metric === 'run'))?.error
  return error === undefined ? undefined : joinLines(error)
}
