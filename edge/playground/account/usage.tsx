import { useState } from 'preact/hooks'
import { formatMoney, pluralize } from '../api/format.ts'
import type { Usage } from '../api/types.ts'
import { Choice } from '../ui/controls.tsx'
import { Table } from '../ui/table.tsx'
import { groupByDay, UsageChart } from './chart.tsx'
import { useResource } from './resource.ts'
import { Section } from './section.tsx'

const SPANS = [
  { value: '7', text: '7 days' },
  { value: '30', text: '30 days' },
  { value: '90', text: '90 days' },
] as const
type Span = (typeof SPANS)[number]['value']

const DAY_MS = 86_400_000
const utcDayOf = (time: number) => new Date(time).toISOString().slice(0, 10)

/** The days from `from` to `to`, both included. */
function daysOf({ from, to }: Usage): string[] {
  const count = (Date.parse(to) - Date.parse(from)) / DAY_MS + 1
  return Array.from({ length: count }, (_, k) => utcDayOf(Date.parse(from) + k * DAY_MS))
}

const Figure = ({ name, value }: { name: string; value: string }) => (
  <div>
    <dt>{name}</dt>
    <dd>{value}</dd>
  </div>
)

function UsageTable({ usage }: { usage: Usage }) {
  const rows = [...groupByDay(usage.data)].toReversed()
  return (
    <details class="more">
      <summary>As a table</summary>
      <Table columns={['Day (UTC)', 'Tier']} numbers={['Jobs', 'Price']}>
        {rows.flatMap(([day, tiers]) =>
          [...tiers].map(([tier, { jobs, price }]) => (
            <tr key={`${day} ${tier}`}>
              <td>{day}</td>
              <td>{tier}</td>
              <td class="number">{jobs}</td>
              <td class="number">{formatMoney(price)}</td>
            </tr>
          )),
        )}
      </Table>
    </details>
  )
}

export function UsageSection() {
  const [span, setSpan] = useState<Span>('30')
  const to = utcDayOf(Date.now())
  const from = utcDayOf(Date.parse(to) - (Number(span) - 1) * DAY_MS)
  const { data: usage, problem } = useResource<Usage>(`/v1/usage?from=${from}&to=${to}`)
  const jobs = usage?.data.reduce((sum, row) => sum + row.jobs, 0) ?? 0
  return (
    <Section
      title="Usage"
      about="Finished jobs by day in UTC and by tier."
      problem={problem}
      actions={<Choice legend="Span" name="span" options={SPANS} value={span} onChange={setSpan} />}
    >
      {usage && (
        <>
          <dl class="figures-row">
            <Figure name="Spent" value={formatMoney(usage.total_microdollars)} />
            <Figure name="Jobs" value={jobs.toLocaleString('en')} />
            <Figure name="Reserved" value={formatMoney(usage.reserved_microdollars)} />
            {usage.prepaid ? (
              <Figure name="Balance" value={formatMoney(usage.balance_microdollars)} />
            ) : (
              <Figure name="Running now" value={pluralize(usage.open_jobs, 'job')} />
            )}
          </dl>
          <UsageChart days={daysOf(usage)} rows={usage.data} />
          {usage.data.length > 0 && <UsageTable usage={usage} />}
        </>
      )}
    </Section>
  )
}
