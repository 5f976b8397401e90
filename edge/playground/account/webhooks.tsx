import { useState } from 'preact/hooks'
import { call } from '../api/http.ts'
import type { Webhook } from '../api/types.ts'
import { announce } from '../state/live.ts'
import { Button } from '../ui/controls.tsx'
import { ErrorNote } from '../ui/note.tsx'
import { ConfirmDialog } from './confirm.tsx'
import { Deliveries } from './deliveries.tsx'
import { useAction, useResource } from './resource.ts'
import { AdminOnly, SecretDialog, Section } from './section.tsx'

/** The endpoint of the URLs given in requests; it always exists. */
const DEFAULT: Webhook = {
  ...{ id: 'default', url: 'URLs given in requests', events: [], description: '' },
  ...{ disabled: false, disabled_reason: null },
}

function NewEndpoint({ onCreated }: { onCreated: (secret: string) => void }) {
  const [url, setUrl] = useState('')
  const { problem, run } = useAction()
  const add = () =>
    run(async () => {
      const { secret } = await call<{ secret: string }>('POST', '/v1/webhooks', { url })
      setUrl('')
      onCreated(secret)
    })
  return (
    <form
      class="new-endpoint"
      onSubmit={(event) => {
        event.preventDefault()
        void add()
      }}
    >
      <label for="webhook-url">New endpoint</label>
      <div class="joined">
        <input
          id="webhook-url"
          type="url"
          required
          placeholder="https://example.com/octet"
          value={url}
          onInput={(event) => setUrl(event.currentTarget.value)}
        />
        <button type="submit" class="button">
          Add
        </button>
      </div>
      {problem && <ErrorNote error={problem} />}
    </form>
  )
}

type EndpointProps = { of: Webhook; isAdmin: boolean; onChanged: () => void }

function Endpoint({ of: endpoint, isAdmin, onChanged }: EndpointProps) {
  const [isRemoving, setRemoving] = useState(false)
  const [tests, setTests] = useState(0)
  const { problem, run } = useAction()
  const path = `/v1/webhooks/${endpoint.id}`
  const test = () =>
    run(() => call('POST', `${path}/test`, {})).then((isSent) => {
      if (!isSent) return
      announce('The test event was sent.')
      setTests(tests + 1)
    })
  return (
    <li class="endpoint">
      <header>
        <div>
          <strong>{endpoint.url}</strong>
          <p class="hint">
            {endpoint.disabled && `Disabled (${endpoint.disabled_reason}). `}
            {endpoint.events.length > 0 ? endpoint.events.join(', ') : 'The event of each job that named a URL.'}
          </p>
        </div>
        {isAdmin && endpoint.id !== DEFAULT.id && (
          <div class="row-actions">
            <Button kind="quiet" icon="check" onClick={() => void test()}>
              Send test
            </Button>
            <Button kind="quiet" icon="trash" label={`Remove ${endpoint.url}`} onClick={() => setRemoving(true)} />
          </div>
        )}
      </header>
      {problem && <ErrorNote error={problem} />}
      <Deliveries endpoint={endpoint.id} isAdmin={isAdmin} version={tests} />
      {isRemoving && (
        <ConfirmDialog
          title="Remove the endpoint"
          text={`${endpoint.url} receives no more events, and its pending deliveries are dropped.`}
          verb="Remove"
          onConfirm={() => void run(() => call('DELETE', path)).then(onChanged)}
          onClose={() => setRemoving(false)}
        />
      )}
    </li>
  )
}

export function Webhooks({ isAdmin }: { isAdmin: boolean }) {
  const { data, problem, reload } = useResource<{ data: Webhook[] }>('/v1/webhooks')
  const [secret, setSecret] = useState<string | null>(null)
  const show = (created: string) => {
    setSecret(created)
    reload()
  }
  return (
    <Section
      title="Webhooks"
      about="Signed events at the end of each job, repeated for about 75 hours until they are delivered."
      problem={problem}
    >
      {isAdmin ? <NewEndpoint onCreated={show} /> : <AdminOnly what="Endpoints are added and events sent again" />}
      {data && (
        <ul class="endpoints">
          {[...data.data, DEFAULT].map((endpoint) => (
            <Endpoint key={endpoint.id} of={endpoint} isAdmin={isAdmin} onChanged={reload} />
          ))}
        </ul>
      )}
      {secret !== null && <SecretDialog title="The signing secret" secret={secret} onClose={() => setSecret(null)} />}
    </Section>
  )
}
