// The report and the pass criteria of the hostile bench.
import type { Phase } from './honest.ts'
import type { Growth } from './memory.ts'
import type { Tally } from './program.ts'

type PhaseReport = Phase & { failures: Record<string, number> }
export type Report = {
  alone: PhaseReport
  among: PhaseReport
  tallies: Record<string, Tally>
  /** Memory growth during the phase of honest callers alone and during the phase with hostile callers. */
  memory: { alone: Growth[]; among: Growth[] }
}
export type Verdict = { ratio: number; fast: boolean; flat: boolean; answered: boolean; met: boolean }

/** Maximum ratio of the honest callers' p95 with hostile callers to that without. */
const MAX_RATIO = 1.5

/**
 * The criteria: with hostile callers, the honest callers' p95 is at most 1.5 times that without them, no honest request fails, and the
 * memory of every process is flat.
 */
export function judge({ alone, among, memory }: Report): Verdict {
  const ratio = among.p95 / alone.p95
  const fast = ratio <= MAX_RATIO
  const flat = memory.among.length > 0 && memory.among.every((each) => each.flat)
  const answered = among.sent > 0 && among.failed <= alone.failed
  return { ratio, fast, flat, answered, met: fast && flat && answered }
}

const padColumn = (value: string | number) => String(value).padStart(11)
const formatMegabytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MB`
const formatPairs = (counts: Record<string, number>) =>
  Object.entries(counts)
    .map(([name, count]) => `${count} ${name}`)
    .join(', ')

function printPhases({ alone, among }: Report): void {
  console.log(
    `\n${'honest callers'.padEnd(20)}${['sent', 'failed', 'p50 ms', 'p95 ms', 'p99 ms'].map(padColumn).join('')}`,
  )
  for (const [name, phase] of [
    ['alone', alone],
    ['with hostile callers', among],
  ] as const) {
    const { sent, failed, p50, p95, p99 } = phase
    console.log(`${name.padEnd(20)}${[sent, failed, ...[p50, p95, p99].map(Math.round)].map(padColumn).join('')}`)
  }
  for (const phase of [alone, among])
    if (phase.failed > 0)
      console.log(`failed${phase === among ? ' with hostile callers' : ''}: ${formatPairs(phase.failures)}`)
}

function printTallies(tallies: Report['tallies']): void {
  console.log(`\n${'hostile callers'.padEnd(28)}${padColumn('sent')}${padColumn('skipped')}  replies`)
  for (const [name, { sent, skipped, replies }] of Object.entries(tallies))
    console.log(`${name.padEnd(28)}${padColumn(sent)}${padColumn(skipped)}  ${formatPairs(replies)}`)
}

function printMemory({ alone, among }: Report['memory']): void {
  const columns = ['first third', 'last third', 'peak'].map((name) => name.padStart(12)).join('')
  console.log(`\n${'resident memory'.padEnd(28)}${columns}`)
  const printRow = (phase: string, { name, first, last, peak, flat }: Growth) => {
    const cells = [first, last, peak].map((bytes) => formatMegabytes(bytes).padStart(12)).join('')
    console.log(`${(name + phase).padEnd(28)}${cells}  ${flat ? 'flat' : 'grows'}`)
  }
  for (const growth of alone) printRow(', honest alone', growth)
  for (const growth of among) printRow('', growth)
}

/** Prints the report. Returns whether all criteria are met. */
export function printReport(report: Report): boolean {
  const { ratio, fast, flat, answered, met } = judge(report)
  printPhases(report)
  printTallies(report.tallies)
  printMemory(report.memory)
  const formatVerdict = (good: boolean) => (good ? 'met' : 'NOT MET')
  console.log(`\np95 with hostile callers / alone: ${ratio.toFixed(2)}, at most ${MAX_RATIO}: ${formatVerdict(fast)}`)
  console.log(`no honest request fails: ${formatVerdict(answered)}`)
  console.log(`memory is flat: ${formatVerdict(flat)}`)
  return met
}
