import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { formatMoney, pluralize } from '../api/format.ts'
import type { UsageRow } from '../api/types.ts'

type Sum = { jobs: number; price: number }

/** Sums over all keys by day and tier. */
export function groupByDay(rows: readonly UsageRow[]): Map<string, Map<string, Sum>> {
  const days = new Map<string, Map<string, Sum>>()
  for (const { day, tier, jobs, price_microdollars } of rows) {
    const tiers = days.get(day) ?? new Map<string, Sum>()
    const { jobs: counted, price } = tiers.get(tier) ?? { jobs: 0, price: 0 }
    days.set(day, tiers.set(tier, { jobs: counted + jobs, price: price + price_microdollars }))
  }
  return days
}

/** The smallest of 1, 2, 5, 10, 20 … that is not below a value. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value) ?? value
}

const [HEIGHT, LEFT, BOTTOM, TOP] = [220, 64, 24, 8]
const PLOT = HEIGHT - BOTTOM - TOP
/** The width of a day's label. */
const LABEL = 72
const shortDay = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric', timeZone: 'UTC' })

type GridProps = { max: number; days: readonly string[]; step: number; width: number }

function Grid({ max, days, step, width }: GridProps) {
  const every = Math.ceil(LABEL / step)
  return (
    <g class="grid">
      {[0, 0.5, 1].map((share) => {
        const y = TOP + PLOT * (1 - share)
        return (
          <g key={share}>
            <line x1={LEFT} x2={width} y1={y} y2={y} />
            <text x={LEFT - 12} y={y + 4} text-anchor="end">
              {formatMoney(max * share)}
            </text>
          </g>
        )
      })}
      {days.map((day, k) =>
        (days.length - 1 - k) % every === 0 ? (
          <text
            key={day}
            x={k === days.length - 1 ? width : LEFT + (k + 0.5) * step}
            y={HEIGHT - 4}
            text-anchor={k === days.length - 1 ? 'end' : 'middle'}
          >
            {shortDay.format(Date.parse(day))}
          </text>
        ) : null,
      )}
    </g>
  )
}

/** The width of an element in pixels, and a reference to attach to it. */
function useWidth() {
  const [width, setWidth] = useState(860)
  const element = useRef<HTMLElement>(null)
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(entry!.contentRect.width))
    if (element.current) observer.observe(element.current)
    return () => observer.disconnect()
  }, [])
  return [width, element] as const
}

type ChartProps = { days: readonly string[]; rows: readonly UsageRow[] }

function Bars({ days, rows }: ChartProps) {
  const [chartWidth, figure] = useWidth()
  const sums = groupByDay(rows)
  const tiers = [...new Set(rows.map(({ tier }) => tier))].toSorted()
  const totals = [...sums.values()].map((each) => [...each.values()].reduce((sum, { price }) => sum + price, 0))
  const max = roundUp(Math.max(...totals, 1))
  // A chart in a hidden view has no width.
  const step = Math.max(0, chartWidth - LEFT) / days.length
  const width = Math.min(28, step * 0.7)
  return (
    <figure ref={figure} class="chart">
      <svg height={HEIGHT} role="img" aria-label="Spending per day, stacked by tier">
        <Grid {...{ max, days, step, width: chartWidth }} />
        {days.map((day, k) => {
          let y = TOP + PLOT
          return [...(sums.get(day) ?? [])].toSorted().map(([tier, { jobs, price }]) => {
            const height = Math.max(2, (PLOT * price) / max)
            y -= height
            return (
              <rect
                key={`${day} ${tier}`}
                class={`tier-${tiers.indexOf(tier)}`}
                x={LEFT + k * step + (step - width) / 2}
                {...{ y, width, height }}
                rx="2"
              >
                <title>{`${day}, ${tier}: ${pluralize(jobs, 'job')}, ${formatMoney(price)}`}</title>
              </rect>
            )
          })
        })}
      </svg>
      <figcaption class="legend">
        {tiers.map((tier, k) => (
          <span key={tier}>
            <i class={`tier-${k}`} />
            {tier}
          </span>
        ))}
      </figcaption>
    </figure>
  )
}

/** Bars of money per day, stacked by tier. A table next to it has the same figures for screen readers. */
export function UsageChart(props: ChartProps) {
  if (props.rows.length > 0) return <Bars {...props} />
  return <p class="empty">No finished job in this time. Each one appears here with its price.</p>
}
