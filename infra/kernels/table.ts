// The table of the kernels' resources in docs/performance.md.
import path from 'node:path'
import { type Kernel, type Report, TARGETS, type Target } from './ptxas.ts'

const MARKERS = ['<!-- kernel-table -->\n', '<!-- end of kernel-table -->'] as const

type Row = { source: string; name: string; instances: Set<string>; cells: Map<Target, Kernel> }

/** A row for each kernel, over the instances of its template: the most registers and bytes. */
export function tableOf(reports: readonly Report[]): string {
  const rows = new Map<string, Row>()
  for (const { source, target, kernels } of reports)
    for (const kernel of kernels) {
      const name = kernel.name.replace(/<.*/, '')
      const key = `${source} ${name}`
      const row = rows.get(key) ?? { source, name, instances: new Set(), cells: new Map() }
      rows.set(key, row)
      row.instances.add(kernel.name)
      row.cells.set(target, chooseLarger(row.cells.get(target), kernel))
    }
  const head = ['source', 'kernel', 'instances', 'shared bytes', ...TARGETS.map((target) => `\`${target}\``)]
  const rule = head.map((_, k) => (k < 2 ? '---' : '---:'))
  const body = [...rows.keys()].toSorted().map((key) => cellsOf(rows.get(key)!))
  return [head, rule, ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function cellsOf({ source, name, instances, cells }: Row): string[] {
  const shared = new Set([...cells.values()].map(({ sharedBytes }) => sharedBytes.toLocaleString('en-US')))
  return [
    ...[path.basename(source), name, String(instances.size), [...shared].join(' or ')],
    ...TARGETS.map((target) => formatCell(cells.get(target))),
  ]
}

function chooseLarger(known: Kernel | undefined, kernel: Kernel): Kernel {
  if (!known) return kernel
  const findMax = (figure: 'registers' | 'sharedBytes' | 'spilledBytes') => Math.max(known[figure], kernel[figure])
  return {
    ...known,
    registers: findMax('registers'),
    sharedBytes: findMax('sharedBytes'),
    spilledBytes: findMax('spilledBytes'),
  }
}

function formatCell(kernel: Kernel | undefined): string {
  if (!kernel) return ''
  const { registers, spilledBytes } = kernel
  return spilledBytes === 0 ? String(registers) : `${registers}, spills ${spilledBytes} bytes`
}

/** Replaces the table between its markers in the text of a page. */
export function replaceTable(page: string, table: string): string {
  const [start, end] = MARKERS.map((marker) => page.indexOf(marker)) as [number, number]
  if (start < 0 || end < start) throw new Error('the page has no <!-- kernel-table --> … <!-- end of kernel-table -->')
  return `${page.slice(0, start)}${MARKERS[0]}\n${table}\n\n${page.slice(end)}`
}
