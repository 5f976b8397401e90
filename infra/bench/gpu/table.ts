// The tables of docs/performance.md, from the figures of `npm run bench -- gpu`.
import fs from 'node:fs/promises'
import path from 'node:path'
import { NANO } from '../../local/models/built-in-model.ts'
import { ROOT } from '../../local/models/package-cache.ts'
import { type Figure, figure, PART_FROM, PART_TO } from './plan.ts'

type Column = {
  title: string
  metric: string
  digits: number /** Whether the row states ratios to PyTorch. */
  ratio?: boolean
}

const FORWARD: Column = { title: 'one forward, ms', metric: 'forward_ms', digits: 1, ratio: true }
const TURBO: Column = { title: '4-step image, s', metric: 'turbo_s', digits: 2, ratio: true }
const FULL: Column = { title: '28 steps with CFG, s', metric: 'full_s', digits: 2, ratio: true }
const PEAK: Column = { title: 'GPU memory for an image, MiB', metric: 'peak_mib_turbo', digits: 0, ratio: true }
const PSNR: Column = { title: 'PSNR to float32, dB', metric: 'psnr_db', digits: 1 }

const WEIGHTS: Column = { title: 'weights, GB', metric: 'weights_gb', digits: 1 }

const BY_SIZE: readonly Column[] = [
  FORWARD,
  { title: 'error', metric: 'velocity_error', digits: 4 },
  TURBO,
  FULL,
  { title: 'VAE decode, ms', metric: 'decode_ms', digits: 0 },
  PEAK,
  { title: "PyTorch's own count, MiB", metric: 'allocated_mib', digits: 0 },
  PSNR,
]
const BY_SYSTEM: readonly Column[] = [
  WEIGHTS,
  { title: 'load, s', metric: 'load_s', digits: 1 },
  { title: 'GB/s', metric: 'load_gb_per_s', digits: 1 },
  { title: 'start → listening, s', metric: 'start_listening_s', digits: 2 },
  { title: '→ loaded', metric: 'start_loaded_s', digits: 1 },
  { title: '→ warm and ready', metric: 'start_ready_s', digits: 1 },
  { title: '→ first image', metric: 'first_image_s', digits: 1 },
  { title: 'second image, s', metric: 'second_image_s', digits: 2 },
  { title: 'text, ms', metric: 'encode_ms', digits: 0 },
  { title: 'error of the prompt', metric: 'prompt_error', digits: 4 },
  { title: 'most GPU memory, loading included, MiB', metric: 'peak_mib', digits: 0, ratio: true },
]
const BASELINE = 'torch-bf16'
/** The image size in the article behind this project. */
export const ARTICLE_SIZE = '1024x768'

/** The last value by system and metric; a `null` size selects figures of any size. */
type Cells = Map<string, Map<string, number>>

function cellsOf(figures: readonly Figure[], size: string | null): Cells {
  const cells: Cells = new Map()
  for (const { system, metric, value, size: at } of figures) {
    if (value === null || (size !== null && at !== null && at !== size)) continue
    const row = cells.get(system) ?? new Map<string, number>()
    cells.set(system, row.set(metric, value))
  }
  return cells
}

const variantsOf = (figures: readonly Figure[]) =>
  [...Map.groupBy(figures, ({ variant }) => variant)].map(([variant, own]) => ({ variant, own }))

/** All figures, by variant and size. Ratios in parentheses are to PyTorch in bfloat16 in the same run. */
export const tableOf = (figures: readonly Figure[]): string =>
  variantsOf(figures)
    .map(({ variant, own }) => {
      const sizes = new Set(own.flatMap(({ size, metric }) => (metric === 'turbo_s' && size ? [size] : [])))
      return [
        `**${variant}**, random weights, on ${own[0]!.device}`,
        ...[...sizes].map((size) =>
          formatMarkdown(
            size,
            BY_SIZE,
            cellsOf(
              own.filter((each) => each.size === size),
              size,
            ),
          ),
        ),
        formatMarkdown('any size', BY_SYSTEM, cellsOf(own, null)),
        formatStartTable(cellsOf(own, null)),
        failuresOf(own),
      ]
        .filter(Boolean)
        .join('\n\n')
    })
    .join('\n\n')

/** The times of the parts of each start, sorted by their ends in the first start; empty without a start. */
function formatStartTable(cells: Cells): string {
  const partsOf = (metrics: ReadonlyMap<string, number>) =>
    [...metrics.keys()].filter((metric) => metric.startsWith(PART_TO)).map((metric) => metric.slice(PART_TO.length))
  const starts = [...cells].filter(([, metrics]) => partsOf(metrics).length > 0)
  const [first] = starts
  if (!first) return ''
  const endOf = (part: string) => first[1].get(PART_TO + part) ?? Number.POSITIVE_INFINITY
  const parts = [...new Set(starts.flatMap(([, metrics]) => partsOf(metrics)))].toSorted((a, b) => endOf(a) - endOf(b))
  const format = (metrics: ReadonlyMap<string, number>, metric: string) => metrics.get(metric)?.toFixed(2) ?? ''
  const rows = parts.map((part) => [
    part,
    ...starts.flatMap(([, metrics]) => [format(metrics, PART_FROM + part), format(metrics, PART_TO + part)]),
  ])
  return formatTable(['part', ...starts.flatMap(([system]) => [`${system}: from, s`, 'to, s'])], rows)
}

/** Memory, duration and quality of the article's three methods, with Octet and with PyTorch. */
export function articleOf(figures: readonly Figure[], nanoCard: string): string {
  const large = cellsOf(
    figures.filter(({ variant }) => variant === 'large'),
    ARTICLE_SIZE,
  )
  const ways = [
    ['16 bits, all encoders', 'torch-bf16', 'octet-fp16', 'fp16'],
    ['FP8 denoiser only', 'torch-fp8-backbone', null, null],
    ['FP8 denoiser and T5', 'torch-fp8-weights', 'octet-fp8', 'fp8'],
    ['FP8 and no T5', 'torch-fp8-lite', 'octet-fp8-lite', 'fp8-lite'],
  ] as const
  const rows = ways.flatMap(([way, torch, octet, tier]) => {
    const formatRow = (name: string, system: string) => [
      `${way}, ${name}`,
      ...[WEIGHTS, PEAK, TURBO, PSNR].map(
        ({ metric, digits }) => large.get(system)?.get(metric)?.toFixed(digits) ?? '–',
      ),
      ...(name === 'Octet' && tier ? readNanoQuality(nanoCard, `nano-turbo-${tier}`) : ['', '']),
    ]
    return [formatRow('PyTorch', torch), ...(octet ? [formatRow('Octet', octet)] : [])]
  })
  const head = [`Large, 4 steps, ${ARTICLE_SIZE}`, WEIGHTS.title, 'GPU memory, MiB', 's an image', PSNR.title]
  return formatTable([...head, 'nano-turbo: right main sprite', 'nano-turbo: PSNR to float32, dB'], rows)
}

/** Main-sprite accuracy and PSNR in a row of the model card's table. */
function readNanoQuality(card: string, name: string): string[] {
  const row = card.split('\n').find((line) => line.startsWith(`| ${name} `))
  const cells = row?.split('|').map((cell) => cell.trim())
  return [cells?.[2] ?? '–', cells?.[7] ?? '–']
}

function failuresOf(figures: readonly Figure[]): string {
  const failed = figures.filter(({ error }) => error !== undefined)
  return failed.map(({ system, metric, size, error }) => `- ${system}, ${metric} ${size ?? ''}: ${error}`).join('\n')
}

function formatMarkdown(title: string, columns: readonly Column[], cells: Cells): string {
  const systems = [...cells.keys()].filter((system) => columns.some(({ metric }) => cells.get(system)!.has(metric)))
  const used = columns.filter(({ metric }) => systems.some((system) => cells.get(system)!.has(metric)))
  const rows = systems.map((system) => [system, ...used.map((column) => formatCell(cells, system, column))])
  return formatTable([title, ...used.map((column) => column.title)], rows)
}

function formatTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const rule = ['---', ...head.slice(1).map(() => '---:')]
  return [head, rule, ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')
}

function formatCell(cells: Cells, system: string, { metric, digits, ratio }: Column): string {
  const value = cells.get(system)?.get(metric)
  if (value === undefined) return ''
  const base = cells.get(BASELINE)?.get(metric)
  const relative = ratio && base !== undefined && system !== BASELINE ? ` (${(value / base).toFixed(2)})` : ''
  return `${value.toFixed(digits)}${relative}`
}

const PAGE = 'docs/performance.md'
const BETWEEN = /(<!-- gpu-table -->\n)[\s\S]*?(<!-- end of gpu-table -->)/

/** Prints the tables of figures in files, or writes them into docs/performance.md. */
export async function benchGpuTable({ files, write }: { files: string[]; write?: boolean }): Promise<void> {
  const texts = await Promise.all(files.map((file) => fs.readFile(file, 'utf8')))
  const figures = texts.flatMap((text) => text.trim().split('\n')).map((text) => figure.parse(JSON.parse(text)))
  const nanoCard = await fs.readFile(path.join(NANO, 'README.md'), 'utf8')
  const tables = `${tableOf(figures)}\n\n${articleOf(figures, nanoCard)}`
  if (!write) return console.log(tables)
  const file = path.join(ROOT, PAGE)
  await fs.writeFile(file, replaceTable(await fs.readFile(file, 'utf8'), tables, PAGE))
}

/** Replaces the table between its markers in a file. */
export function replaceTable(text: string, table: string, name: string): string {
  if (!BETWEEN.test(text)) throw new Error(`${name} has no <!-- gpu-table --> … <!-- end of gpu-table -->`)
  return text.replace(BETWEEN, (_, start, end) => `${start}\n${table}\n\n${end}`)
}
