import type { ComponentChildren } from 'preact'
import { CopyButton } from './controls.tsx'
import { Icon } from './icons.tsx'

type Failure = { message: string; code: string; requestId: string | null }

/** What the reader can do about an error, in words. */
const ADVICE: Record<string, string> = {
  invalid_api_key: 'Paste another key: it is missing, expired or revoked.',
  over_budget: 'The account tab shows what is left. An operator can raise the limits or add credit.',
  insufficient_scope: 'Use a key with the scope named above.',
  max_cost_exceeded: 'The price has changed since it was shown. Check the new price and run again.',
  rate_limited: 'Wait a moment, then run again.',
  concurrency_limited: 'Wait until one of the running jobs has ended, or cancel one.',
  overloaded: 'Run it again in a minute.',
  offline: 'The run is kept. Run it again once the connection is back.',
}

/** An error: the API's sentence, what to do, and the id of the request for the operator. */
export function ErrorNote({ error, children }: { error: Failure; children?: ComponentChildren }) {
  const { requestId } = error
  return (
    <div class="note danger" role="alert">
      <Icon name="warning" />
      <div>
        <p>{error.message}</p>
        {ADVICE[error.code] && <p class="muted">{ADVICE[error.code]}</p>}
        {children}
        {requestId && (
          <p class="request-id">
            <span class="muted">Request</span> <code>{requestId}</code>
            <CopyButton kind="quiet" text={() => requestId}>
              Copy
            </CopyButton>
          </p>
        )}
      </div>
    </div>
  )
}
