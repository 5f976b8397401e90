import { formatMoney } from '../api/format.ts'
import { keyDialog } from '../api/session.ts'
import { isFinal, type Run } from '../state/history.ts'
import { describeRun, liveOf, progressOf } from '../state/live.ts'
import { cancelRun, repeat } from '../state/run.ts'
import { Button } from '../ui/controls.tsx'
import { ErrorNote } from '../ui/note.tsx'

function Progress({ run }: { run: Run }) {
  const live = liveOf(run.id)
  const share = progressOf(run, { ...live, state: run.state })
  const { title, detail } = describeRun(run, live)
  return (
    <div class="progress">
      <div class="progress-words">
        <strong>{title}</strong>
        <span class="muted figures">{detail}</span>
        <Button icon="cancel" shortcut="X" isDisabled={run.job === null} onClick={() => void cancelRun(run)}>
          Cancel
        </Button>
      </div>
      <div
        class={`bar${share === null && live.waitMs !== null ? ' indeterminate' : ''}`}
        role="progressbar"
        aria-label={title}
        aria-valuemin={0}
        aria-valuemax={100}
        {...(share !== null && { 'aria-valuenow': Math.round(share * 100) })}
        aria-valuetext={`${title}. ${detail}`}
      >
        <span style={{ '--share': share ?? 0 }} />
      </div>
    </div>
  )
}

/** Progress of an open run; the reason and the next step of a run without an image. */
export function RunState({ run }: { run: Run }) {
  if (!isFinal(run)) return <Progress run={run} />
  if (run.state === 'failed')
    return (
      <ErrorNote error={run.error ?? { message: 'The run failed.', code: 'unknown', requestId: null }}>
        <p class="buttons">
          <Button icon="reuse" onClick={() => void repeat(run)}>
            Run again
          </Button>
          {run.error?.code === 'invalid_api_key' && (
            <Button
              icon="key"
              onClick={() => {
                keyDialog.value = true
              }}
            >
              Change the key
            </Button>
          )}
        </p>
      </ErrorNote>
    )
  if (run.state === 'canceled')
    return (
      <div class="note">
        <div>
          <p>
            Canceled.{' '}
            {run.price ? `Charged ${formatMoney(run.price)} for the completed steps.` : 'Nothing was charged.'}
          </p>
          <p class="buttons">
            <Button icon="reuse" onClick={() => void repeat(run)}>
              Run again
            </Button>
          </p>
        </div>
      </div>
    )
  return null
}
