// Tables of operator times and throughput.
import type { CountedCall } from './calls.ts'
import type { CallTime } from './timing.ts'
import { type Peaks, peakShareOf, rateOf, workOf } from './work.ts'

export type TimedCall = { readonly call: CountedCall; readonly time: CallTime }

/** Cells of a row. If the operator was not timed, the error replaces the rate. */
export type RateColumns = [operator: string, layers: string, microseconds: string, rate: string, share: string]

const formatPercent = (share: number) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`
const formatRow = (cells: readonly string[]) => `|${cells.map((cell) => (cell ? ` ${cell} |` : ' |')).join('')}`

/** Operator name and the shapes that determine its time. */
function describeCall({ op, inputs, outputs }: CountedCall): string {
  const formatShape = (tensor: (typeof inputs)[number]) => `[${tensor!.shape.slice(1).join(', ')}]`
  /** Shapes of the first input and of its counterpart in the second stream, `distance` inputs later. */
  const formatShapes = (distance: number) =>
    [inputs[0], inputs[distance]].flatMap((each) => (each ? [formatShape(each)] : [])).join(' and ')
  if (op === 'Linear') return `${op} ${formatShapes(5)} · [${inputs[2]!.shape.join(', ')}]`
  if (op === 'QkNormQuantize')
    return `${op} ${formatShape(inputs[0]!)}${inputs[1] ? ` + ${formatShape(inputs[1])}` : ''}`
  if (op === 'Attention') {
    const keys = inputs[4]!.shape[1]! + (inputs[5]?.shape[1] ?? 0)
    return `${op} ${formatShape(outputs[0]!)}, ${keys} keys`
  }
  if (op === 'GeluQuantize') return `${op} ${formatShapes(1)}`
  if (op !== 'ModulateQuantize') return `${op} ${formatShape(inputs[0]!)}`
  const branches = inputs.slice(2, 4).filter((tensor) => tensor !== null).length
  const norms = outputs.slice(1, 5).filter((tensor) => tensor !== null).length / 2
  return `${op} ${formatShapes(4)}, residuals: ${branches}, norms: ${norms}`
}

export function columnsOf({ call, time }: TimedCall, peaks: Peaks | undefined): RateColumns {
  const about = [describeCall(call), call.layers.join(', ')] as const
  if ('error' in time) return [...about, '', `not measured: ${time.error.replaceAll('|', '\\|')}`, '']
  const { microseconds } = time
  const work = workOf(call)
  const { value, unit } = rateOf(work, microseconds)
  const rate = unit === 'TFLOP/s' ? Math.round(value).toLocaleString('en-US') : value.toFixed(2)
  const share = peaks ? formatPercent(peakShareOf(work, microseconds, peaks)) : ''
  return [...about, microseconds.toFixed(1), `${rate} ${unit}`, share]
}

/** Markdown table of operator throughput. */
export const formatRatesTable = (calls: readonly TimedCall[], peaks: Peaks | undefined): string =>
  [
    '| operator | layers | µs | rate | share of peak |',
    '|---|---|---:|---:|---:|',
    ...calls.map((each) => formatRow(columnsOf(each, peaks))),
  ].join('\n')

/** Markdown table of each operator's share of a step of `stepMilliseconds`, largest first. */
export function profileTable(calls: readonly TimedCall[], stepMilliseconds: number, peaks: Peaks | undefined): string {
  const formatMilliseconds = ({ call, time }: TimedCall) =>
    'error' in time ? Number.NaN : (time.microseconds * call.count) / 1000
  const formatShare = (part: number) => formatPercent(part / stepMilliseconds)
  const rows = calls
    .toSorted((a, b) => (formatMilliseconds(b) || 0) - (formatMilliseconds(a) || 0))
    .map((each) => {
      const [operator, layers, microseconds, rate, ofPeak] = columnsOf(each, peaks)
      const part = formatMilliseconds(each)
      const parts = Number.isNaN(part) ? ['', ''] : [part.toFixed(2), formatShare(part)]
      return [operator, layers, `${each.call.count}`, microseconds, ...parts, rate, ofPeak]
    })
  const sum = calls.reduce((total, each) => total + (formatMilliseconds(each) || 0), 0)
  const count = calls.reduce((total, { call }) => total + call.count, 0)
  const rest = stepMilliseconds - sum
  const incomplete = calls.some(({ time }) => 'error' in time) ? ', without those that were not measured' : ''
  return [
    '| operator | layers | calls | µs | ms per step | share of the step | rate | share of peak |',
    '|---|---|---:|---:|---:|---:|---:|---:|',
    ...rows.map(formatRow),
    formatRow([`all FP8 operators${incomplete}`, '', `${count}`, '', sum.toFixed(2), formatShare(sum), '', '']),
    formatRow(['the rest: head, tail and gaps', '', '', '', rest.toFixed(2), formatShare(rest), '', '']),
    formatRow(['the step', '', '', '', stepMilliseconds.toFixed(2), '100 %', '', '']),
  ].join('\n')
}
