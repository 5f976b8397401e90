import { useEffect, useState } from 'preact/hooks'
import { formatTime, pluralize } from '../api/format.ts'
import { call } from '../api/http.ts'
import type { Delivery } from '../api/types.ts'
import { announce } from '../state/live.ts'
import { Button } from '../ui/controls.tsx'
import { ErrorNote } from '../ui/note.tsx'
import { Table } from '../ui/table.tsx'
import { useAction, useResource } from './resource.ts'

const STATES = ['pending', 'delivered', 'exhausted', 'refused', 'dropped']
/** The number of deliveries shown at first, and the maximum. */
const [FEW, MANY] = [5, 100]
/** The interval between reads of pending deliveries. */
const PENDING_MS = 2000

function outcomeOf({ attempts }: Delivery): string {
  const last = attempts.at(-1)
  if (!last) return 'not tried yet'
  const result = last.status === null ? (last.error ?? 'no response') : `status ${last.status}`
  return `${pluralize(attempts.length, 'attempt')}, ${result} in ${last.milliseconds} ms`
}

type RowProps = { of: Delivery; onResend: (() => void) | null }

function DeliveryRow({ of: delivery, onResend }: RowProps) {
  const { event, type, state, created, next_attempt, url } = delivery
  return (
    <tr>
      <td>
        <span class={`state ${state}`}>{state}</span>
      </td>
      <td>
        {type}
        {url && <span class="muted"> to {url}</span>}
        <br />
        <code class="muted">{event}</code>
      </td>
      <td>
        {formatTime(created)}
        <br />
        <span class="muted">
          {outcomeOf(delivery)}
          {next_attempt && `, next ${formatTime(next_attempt)}`}
        </span>
      </td>
      <td class="row-actions">
        {onResend && (
          <Button kind="quiet" icon="reuse" onClick={onResend}>
            Resend
          </Button>
        )}
      </td>
    </tr>
  )
}

type Props = { endpoint: string; isAdmin: boolean; version: number }

/** The deliveries of an endpoint, newest first. Another `version` reads them again. */
export function Deliveries({ endpoint, isAdmin, version }: Props) {
  const [state, setState] = useState('')
  const [limit, setLimit] = useState(FEW)
  const path = `/v1/webhooks/${endpoint}/deliveries`
  const { data, problem, reload } = useResource<{ data: Delivery[] }>(
    `${path}?limit=${limit}${state && `&state=${state}`}`,
  )
  const action = useAction()
  const isPending = data?.data.some((each) => each.state === 'pending') ?? false
  useEffect(reload, [version])
  useEffect(() => {
    if (!isPending) return
    const timer = setTimeout(reload, PENDING_MS)
    return () => clearTimeout(timer)
  }, [isPending, data])
  const resend = (event: string) =>
    action
      .run(() => call('POST', `${path}/${event}/replay`, { only: 'all' }))
      .then((isSent) => {
        if (isSent) announce('The event is sent again.')
        reload()
      })
  if (problem) return <ErrorNote error={problem} />
  if (!data) return null
  return (
    <div class="deliveries">
      <div class="filter">
        <label for={`state-${endpoint}`}>Deliveries</label>
        <select id={`state-${endpoint}`} value={state} onChange={(event) => setState(event.currentTarget.value)}>
          <option value="">all</option>
          {STATES.map((each) => (
            <option key={each} value={each}>
              {each}
            </option>
          ))}
        </select>
      </div>
      {action.problem && <ErrorNote error={action.problem} />}
      {data.data.length === 0 ? (
        <p class="empty">No deliveries{state && ` in the state ${state}`}.</p>
      ) : (
        <Table columns={['State', 'Event', 'Time']} hasActions>
          {data.data.map((delivery) => (
            <DeliveryRow
              key={delivery.event}
              of={delivery}
              onResend={isAdmin ? () => void resend(delivery.event) : null}
            />
          ))}
        </Table>
      )}
      {limit === FEW && data.data.length === FEW && (
        <div>
          <Button kind="quiet" onClick={() => setLimit(MANY)}>
            Show more
          </Button>
        </div>
      )}
    </div>
  )
}
