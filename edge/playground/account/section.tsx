import type { ComponentChildren } from 'preact'
import { useId } from 'preact/hooks'
import type { Problem } from '../api/http.ts'
import { CopyButton } from '../ui/controls.tsx'
import { Dialog } from '../ui/dialog.tsx'
import { Icon } from '../ui/icons.tsx'
import { ErrorNote } from '../ui/note.tsx'

type Props = {
  title: string
  about?: string
  problem: Problem | null
  actions?: ComponentChildren
  children: ComponentChildren
}

/** A part of the account page. Its problem is shown in place of the content. */
export function Section({ title, about, problem, actions, children }: Props) {
  const id = useId()
  return (
    <section class="card" aria-labelledby={id}>
      <header>
        <div>
          <h2 id={id}>{title}</h2>
          {about && <p class="hint">{about}</p>}
        </div>
        {actions && <div class="buttons">{actions}</div>}
      </header>
      {problem ? <ErrorNote error={problem} /> : children}
    </section>
  )
}

/** The reason why an action is missing. */
export const AdminOnly = ({ what }: { what: string }) => (
  <p class="note">
    <Icon name="lock" /> {what} with a key that has the scope admin. This key does not have it.
  </p>
)

/** Shows a secret, for the only time. */
export function SecretDialog({ title, secret, onClose }: { title: string; secret: string; onClose: () => void }) {
  return (
    <Dialog title={title} onClose={onClose}>
      <p>Copy it now. It is shown only once, and is not stored.</p>
      <pre class="secret">
        <code>{secret}</code>
      </pre>
      <footer>
        <CopyButton text={() => secret} kind="primary">
          Copy
        </CopyButton>
        <button type="button" class="button" onClick={onClose}>
          I saved it
        </button>
      </footer>
    </Dialog>
  )
}
