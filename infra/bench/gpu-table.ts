// The figures of `npm run bench -- gpu` as Markdown tables.
import fs from 'node:fs/promises'
import path from 'node:path'
import { ROOT } from '../package-cache.ts'
import { type Figure, figure } from './gpu-plan.ts'

type Column = { title: string; metric: string; digits: number }

const BY_SIZE: readonly Column[] = [
  { title: 'one forward, ms', metric: 'forward_ms', digits: 1 },
  { title: 'error', metric: 'velocity_error', digits: 4 },
  { title: '4-step image, s', metric: 'turbo_s', digits: 2 },
  { title: '28 steps with CFG, s', metric: 'full_s', digits: 2 },
  { title: 'VAE decode, ms', metric: 'decode_ms', digits: 0 },
  { title: 'peak GPU memory, MiB', metric: 'peak_mib_turbo', digits: 0 },
  { title: 'PSNR to float32, dB', metric: 'psnr_db', digits: 1 },
]
const BY_SYSTEM: readonly Column[] = [
  { title: 'load, s', metric: 'load_s', digits: 1 },
  { title: 'GB/s', metric: 'load_gb_per_s', digits: 1 },
  { title: 'start → ready, s', metric: 'start_ready_s', digits: 1 },
  { title: 'start → first image, s', metric: 'first_image_s', digits: 1 },
  { title: 'text, ms', metric: 'encode_ms', digits: 0 },
  { title: 'error of the prompt', metric: 'prompt_error', digits: 4 },
  { title: 'most GPU memory, loading included, MiB', metric: 'peak_mib', digits: 0 },
]
const BASELINE = 'torch-bf16'
const RATIOS = ['forward_ms', 'turbo_s', 'full_s', 'peak_mib_turbo', 'peak_mib']

/** Tables by variant: one of whole systems, and one for each size; times in brackets are ratios to PyTorch in bfloat16 of the same run. */
export function tableOf(figures: readonly Figure[]): string {
  const variants = [...new Set(figures.map(({ variant }) => variant))]
  return variants.map((variant) => tablesOf(figures.filter((each) => each.variant === variant))).join('\n\n')
}

function tablesOf(figures: readonly Figure[]): string {
  const { variant, device } = figures[0]!
  const sizes = [...new Set(figures.flatMap(({ size, metric }) => (metric === 'turbo_s' && size ? [size] : [])))]
  const parts = [
    `**${variant}**, random weights, on ${device}`,
    ...sizes.map((size) => markdown(size, BY_SIZE, latest(figures, size), figures)),
    markdown('whole', BY_SYSTEM, latest(figures, null), figures),
  ]
  const failures = figures.filter(({ error }) => error !== undefined)
  if (failures.length > 0)
    parts.push(
      failures.map(({ system, metric, size, error }) => `- ${system} ${metric} ${size ?? ''}: ${error}`).join('\n'),
    )
  return parts.filter(Boolean).join('\n\n')
}

type Cells = Map<string, Map<string, number>>

/** System → metric → its last value; without a size, figures of any size count where there is none without. */
function latest(figures: readonly Figure[], size: string | null): Cells {
  const cells: Cells = new Map()
  for (const { system, metric, value, size: at } of figures) {
    if (value === null || (size !== null && at !== size)) continue
    const row = cells.get(system) ?? new Map<string, number>()
    cells.set(system, row.set(metric, value))
  }
  return cells
}

function markdown(title: string, columns: readonly Column[], cells: Cells, figures: readonly Figure[]): string {
  const systems = [...new Set(figures.map(({ system }) => system))].filter((system) =>
    columns.some(({ metric }) => cells.get(system)?.has(metric)),
  )
  if (systems.length === 0) return ''
  const used = columns.filter(({ metric }) => systems.some((system) => cells.get(system)?.has(metric)))
  const rows = systems.map((system) => [system, ...used.map((column) => cell(cells, system, column))])
  const lines = [[title, ...used.map((column) => column.title)], ['---', ...used.map(() => '---:')], ...rows]
  return lines.map((row) => `| ${row.join(' | ')} |`).join('\n')
}

function cell(cells: Cells, system: string, { metric, digits }: Column): string {
  const value = cells.get(system)?.get(metric)
  if (value === undefined) return ''
  const base = cells.get(BASELINE)?.get(metric)
  const ratio = base !== undefined && system !== BASELINE && RATIOS.includes(metric)
  return `${value.toFixed(digits)}${ratio ? ` (${(value / base).toFixed(2)})` : ''}`
}

const README = path.join(ROOT, 'README.md')
const BETWEEN = /(<!-- npm run bench -- gpu-table -->\n)[\s\S]*?(<!-- end -->)/

/** Prints the tables of a file of figures, or puts them into the README. */
export async function benchGpuTable({ figures, readme }: { figures: string; readme?: boolean }): Promise<void> {
  const lines = (await fs.readFile(figures, 'utf8')).trim().split('\n')
  const tables = tableOf(lines.map((text) => figure.parse(JSON.parse(text))))
  if (!readme) return console.log(tables)
  const text = await fs.readFile(README, 'utf8')
  if (!BETWEEN.test(text)) throw new Error(`${README} has no place for the table`)
  await fs.writeFile(
    README,
    text.replace(BETWEEN, (_, start, end) => `${start}\n${tables}\n\n${end}`),
  )
}
