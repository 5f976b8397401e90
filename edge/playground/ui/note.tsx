import type { ComponentChildren } from 'preact'
import { findAdvice } from './advice.ts'
import { CopyButton } from './controls.tsx'
import { Icon } from './icons.tsx'

type Failure = { message: string; code: string; requestId: string | null }

/** An error: the API's sentence, what to do, and the id of the request for the operator. */
export function ErrorNote({ error, children }: { error: Failure; children?: ComponentChildren }) {
  const { requestId } = error
  const advice = findAdvice(error.code)
  return (
    <div class="note danger" role="alert">
      <Icon name="warning" />
      <div>
        <p>{error.message}</p>
        {advice && <p class="muted">{advice}</p>}
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
