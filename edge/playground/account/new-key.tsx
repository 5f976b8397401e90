import { useState } from 'preact/hooks'
import { call } from '../api/http.ts'
import { Choice } from '../ui/controls.tsx'
import { Dialog } from '../ui/dialog.tsx'
import { ErrorNote } from '../ui/note.tsx'
import { useAction } from './resource.ts'

const SCOPES = [
  { scope: 'generate', about: 'creates and cancels jobs' },
  { scope: 'read', about: 'reads jobs, usage and webhooks' },
  { scope: 'admin', about: 'manages keys, webhooks and the account' },
]
const DAY_SECONDS = 86_400
const EXPIRATIONS = [
  { value: '30', text: '30 days' },
  { value: '365', text: '1 year' },
  { value: '', text: 'Never' },
] as const
const DOLLAR = 1_000_000

type Props = { onClose: () => void; onCreated: (key: string) => void }

export function NewKeyDialog({ onClose, onCreated }: Props) {
  const [label, setLabel] = useState('')
  const [scopes, setScopes] = useState(['generate', 'read'])
  const [days, setDays] = useState<(typeof EXPIRATIONS)[number]['value']>('365')
  const [daily, setDaily] = useState('')
  const { problem, run } = useAction()
  const create = () =>
    run(async () => {
      const { key } = await call<{ key: string }>('POST', '/v1/keys', {
        ...{ label, scopes, expires_in: days === '' ? null : Number(days) * DAY_SECONDS },
        ...(daily !== '' && { limits: { daily_microdollars: Math.round(Number(daily) * DOLLAR) } }),
      })
      onClose()
      onCreated(key)
    })
  return (
    <Dialog title="New key" onClose={onClose}>
      <form
        class="fields"
        onSubmit={(event) => {
          event.preventDefault()
          void create()
        }}
      >
        <div class="field">
          <label for="new-label">Label</label>
          <input
            id="new-label"
            maxLength={100}
            placeholder="Where the key is used"
            value={label}
            onInput={(event) => setLabel(event.currentTarget.value)}
          />
        </div>
        <fieldset class="checkboxes">
          <legend>Scopes</legend>
          {SCOPES.map(({ scope, about }) => (
            <label key={scope}>
              <input
                type="checkbox"
                checked={scopes.includes(scope)}
                onChange={({ currentTarget: { checked } }) =>
                  setScopes(checked ? [...scopes, scope] : scopes.filter((each) => each !== scope))
                }
              />
              <span>
                {scope} <span class="muted">{about}</span>
              </span>
            </label>
          ))}
        </fieldset>
        <Choice legend="Valid for" name="expiration" options={EXPIRATIONS} value={days} onChange={setDays} />
        <div class="field">
          <label for="new-daily">Spending per day, in dollars</label>
          <input
            id="new-daily"
            class="figures"
            type="number"
            {...{ min: 0, step: 'any' }}
            placeholder="no limit of its own"
            value={daily}
            onInput={(event) => setDaily(event.currentTarget.value)}
          />
        </div>
        {problem && <ErrorNote error={problem} />}
        <button type="submit" class="button primary">
          Create the key
        </button>
      </form>
    </Dialog>
  )
}
