import { formatMoney, plural } from '../api/format.ts'
import type { UsageRow } from '../api/types.ts'

type Sum = { jobs: number; price: number }

/** Sums over all keys by day and tier. */
export function byDay(rows: readonly UsageRow[]): Map<string, Map<string, Sum>> {
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

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [860, 220, 64, 24, 8]
const PLOT = HEIGHT - BOTTOM - TOP
const shortDay = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric', timeZone: 'UTC' })

function Grid({ most, days, step }: { most: number; days: readonly string[]; step: number }) {
  const every = Math.ceil(days.length / 8)
  return (
    <g class="grid">
      {[0, 0.5, 1].map((share) => {
        const y = TOP + PLOT * (1 - share)
        return (
          <g key={share}>
            <line x1={LEFT} x2={WIDTH} y1={y} y2={y} />
            <text x={LEFT - 12} y={y + 4} text-anchor="end">
              {formatMoney(most * share)}
            </text>
          </g>
        )
      })}
      {days.map((day, k) =>
        (days.length - 1 - k) % every === 0 ? (
          <text
            key={day}
            x={k === days.length - 1 ? WIDTH : LEFT + (k + 0.5) * step}
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

/** Scrolls to the last day. */
const showNewest = (figure: HTMLElement | null) => figure?.scrollTo({ left: figure.scrollWidth })

/** Bars of money per day, stacked by tier. A table next to it has the same figures for screen readers. */
export function UsageChart({ days, rows }: { days: readonly string[]; rows: readonly UsageRow[] }) {
  const sums = byDay(rows)
  const tiers = [...new Set(rows.map(({ tier }) => tier))].toSorted()
  if (tiers.length === 0)
    return <p class="empty">No finished job in this time. Each one appears here with its price.</p>
  const totals = [...sums.values()].map((each) => [...each.values()].reduce((sum, { price }) => sum + price, 0))
  const most = roundUp(Math.max(...totals, 1))
  const step = (WIDTH - LEFT) / days.length
  const width = Math.min(28, step * 0.7)
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: on a phone the chart scrolls, so that the keyboard must reach it.
    <figure ref={showNewest} class="chart" tabIndex={0}>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label="Spending per day, stacked by tier">
        <Grid {...{ most, days, step }} />
        {days.map((day, k) => {
          let y = TOP + PLOT
          return [...(sums.get(day) ?? [])].toSorted().map(([tier, { jobs, price }]) => {
            const height = Math.max(2, (PLOT * price) / most)
            y -= height
            return (
              <rect
                key={`${day} ${tier}`}
                class={`tier-${tiers.indexOf(tier)}`}
                x={LEFT + k * step + (step - width) / 2}
                {...{ y, width, height }}
                rx="2"
              >
                <title>{`${day}, ${tier}: ${plural(jobs, 'job')}, ${formatMoney(price)}`}</title>
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
