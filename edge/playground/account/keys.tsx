import { useState } from 'preact/hooks'
import { formatDate } from '../api/format.ts'
import { call } from '../api/http.ts'
import { credential } from '../api/session.ts'
import type { Key } from '../api/types.ts'
import { Button } from '../ui/controls.tsx'
import { ErrorNote } from '../ui/note.tsx'
import { Table } from '../ui/table.tsx'
import { ConfirmDialog } from './confirm.tsx'
import { NewKeyDialog } from './new-key.tsx'
import { useAction, useResource } from './resource.ts'
import { AdminOnly, SecretDialog, Section } from './section.tsx'

const isActive = ({ revoked, expires }: Key) => revoked === null && (expires === null || expires * 1000 > Date.now())

function stateOf({ revoked, expires }: Key): string {
  if (revoked !== null) return `revoked ${formatDate(revoked)}`
  if (expires === null) return 'active'
  return expires * 1000 > Date.now() ? `until ${formatDate(expires)}` : `expired ${formatDate(expires)}`
}

type RowProps = { of: Key; onRotate: () => void; onRevoke: () => void }

function KeyRow({ of: key, onRotate, onRevoke }: RowProps) {
  const isOwn = key.id === credential.value?.keyId
  return (
    <tr class={isActive(key) ? '' : 'inactive'}>
      <th scope="row">
        {key.label || 'no label'} {isOwn && <span class="tag">this tab</span>}
        <br />
        <code class="muted">{key.id}</code>
      </th>
      <td>{key.scopes.join(', ')}</td>
      <td>{formatDate(key.created)}</td>
      <td>{stateOf(key)}</td>
      <td class="row-actions">
        {isActive(key) && !isOwn && (
          <>
            <Button kind="quiet" icon="reuse" onClick={onRotate}>
              Rotate
            </Button>
            <Button kind="quiet" icon="cancel" onClick={onRevoke}>
              Revoke
            </Button>
          </>
        )}
      </td>
    </tr>
  )
}

export function Keys({ isAdmin }: { isAdmin: boolean }) {
  const { data, problem, reload } = useResource<{ data: Key[] }>(isAdmin ? '/v1/keys' : null)
  const [secret, setSecret] = useState<string | null>(null)
  const [isAdding, setAdding] = useState(false)
  const [revoked, setRevoked] = useState<Key | null>(null)
  const action = useAction()
  const show = (key: string) => {
    setSecret(key)
    reload()
  }
  const rotate = (id: string) =>
    action.run(async () => show((await call<{ key: string }>('POST', `/v1/keys/${id}/rotate`, {})).key))
  const revoke = (id: string) => action.run(() => call('DELETE', `/v1/keys/${id}`)).then(reload)
  return (
    <Section
      title="Keys"
      about="A rotated key stays valid for 24 hours next to its successor. Revocation is immediate and permanent."
      problem={problem}
      actions={
        isAdmin && (
          <Button icon="key" onClick={() => setAdding(true)}>
            New key
          </Button>
        )
      }
    >
      {!isAdmin && <AdminOnly what="Keys are managed" />}
      {action.problem && <ErrorNote error={action.problem} />}
      {data && (
        <Table columns={['Key', 'Scopes', 'Created', 'State']} hasActions>
          {data.data
            .toSorted((a, b) => Number(isActive(b)) - Number(isActive(a)) || b.created - a.created)
            .map((key) => (
              <KeyRow key={key.id} of={key} onRotate={() => void rotate(key.id)} onRevoke={() => setRevoked(key)} />
            ))}
        </Table>
      )}
      {isAdding && <NewKeyDialog onClose={() => setAdding(false)} onCreated={show} />}
      {secret !== null && <SecretDialog title="The new key" secret={secret} onClose={() => setSecret(null)} />}
      {revoked && (
        <ConfirmDialog
          title={`Revoke ${revoked.label || revoked.id}`}
          text="Requests, browser tokens and links of this key stop working within seconds. It cannot be reactivated."
          verb="Revoke"
          onConfirm={() => void revoke(revoked.id)}
          onClose={() => setRevoked(null)}
        />
      )}
    </Section>
  )
}
