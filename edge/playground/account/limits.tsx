import { formatMoney, pluralize } from '../api/format.ts'
import { credential } from '../api/session.ts'
import type { Key, Limits, Usage } from '../api/types.ts'
import { Table } from '../ui/table.tsx'
import { type Resource, useResource } from './resource.ts'
import { Section } from './section.tsx'

const NAMES: Record<keyof Limits, string> = {
  requests_per_minute: 'Jobs per minute',
  concurrent_jobs: 'Jobs at a time',
  daily_microdollars: 'Spending per day',
  monthly_microdollars: 'Spending per month',
  total_microdollars: 'Spending in total',
}
const entries = Object.entries(NAMES) as [keyof Limits, string][]

function show(name: keyof Limits, value: number | null | undefined): string {
  if (value === undefined) return '–'
  if (value === null) return 'no limit'
  return name.endsWith('microdollars') ? formatMoney(value) : value.toLocaleString('en')
}

type Props = { usage: Resource<Usage>; isAdmin: boolean }

export function LimitsSection({ usage: { data: usage, problem }, isAdmin }: Props) {
  const key = useResource<Key>(isAdmin ? `/v1/keys/${credential.value?.keyId}` : null)
  return (
    <Section title="Limits" about="The account's limits apply to all of its keys together." problem={problem}>
      {usage && (
        <>
          <Table columns={['Limit']} numbers={['Account', 'This key']}>
            {entries.map(([name, text]) => (
              <tr key={name}>
                <th scope="row">{text}</th>
                <td class="number">{show(name, usage.limits[name])}</td>
                <td class="number">{show(name, key.data?.limits[name])}</td>
              </tr>
            ))}
          </Table>
          <p class="hint">
            Images are kept for {pluralize(usage.retention_days, 'day')}.
            {!isAdmin && ' The limits of a key are shown to keys with the scope admin.'}
          </p>
        </>
      )}
    </Section>
  )
}
