import { useState } from 'preact/hooks'
import { formatMoney } from '../api/format.ts'
import { call, isProblem } from '../api/http.ts'
import {
  credential,
  forgetKey,
  isVisitor,
  keyDialog,
  parseCredential,
  useCredential,
  visitorBudget,
} from '../api/session.ts'
import { Button, FieldError } from '../ui/controls.tsx'
import { Dialog } from '../ui/dialog.tsx'

/** Tests a key with a request that costs nothing. Returns the reason if it is not valid. */
async function testKey(text: string): Promise<string | null> {
  const parsed = parseCredential(text)
  if (!parsed) return 'This is not a key. Keys have the form oct_account_….'
  try {
    await call('GET', '/v1/models', undefined, { bearer: parsed.value })
    useCredential(parsed)
    return null
  } catch (error) {
    return isProblem(error) ? error.message : String(error)
  }
}

/** The field for an API key. */
export function KeyForm({ onDone }: { onDone: () => void }) {
  const [text, setText] = useState('')
  const [problem, setProblem] = useState<string | null>(null)
  const submit = async () => {
    const found = await testKey(text)
    setProblem(found)
    if (found === null) onDone()
  }
  return (
    <form
      class="key-form"
      onSubmit={(event) => {
        event.preventDefault()
        void submit()
      }}
    >
      <label for="key">API key</label>
      <div class="joined">
        <input
          id="key"
          type="password"
          autocomplete="off"
          spellcheck={false}
          placeholder="oct_…"
          value={text}
          aria-describedby="key-hint key-error"
          aria-invalid={problem !== null}
          onInput={(event) => setText(event.currentTarget.value)}
        />
        <button type="submit" class="button primary">
          Use key
        </button>
      </div>
      <p class="hint" id="key-hint">
        It stays in this tab: it is not in the address, in storage of other tabs, or in copied code.
      </p>
      <FieldError id="key-error" text={problem} />
    </form>
  )
}

function CurrentKey() {
  const { value } = credential
  if (!value) return null
  return (
    <p class="current-key">
      {isVisitor.value ? (
        <>
          You are using the operator's public access
          {visitorBudget.value !== null && `, up to ${formatMoney(visitorBudget.value)} an hour`}. A key of your own has
          its own limits, and shows the account.
        </>
      ) : (
        <>
          This tab uses the key <code>{value.keyId}</code> of the account <strong>{value.account}</strong>.
        </>
      )}
    </p>
  )
}

export function KeyDialog() {
  if (!keyDialog.value) return null
  const close = () => {
    keyDialog.value = false
  }
  return (
    <Dialog title="Access" onClose={close}>
      <CurrentKey />
      <KeyForm onDone={close} />
      {credential.value && !isVisitor.value && (
        <footer>
          <Button icon="trash" kind="danger" onClick={forgetKey}>
            Forget the key
          </Button>
        </footer>
      )}
    </Dialog>
  )
}
