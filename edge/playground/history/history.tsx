import { isFinal, type Run, removeRuns, runs } from '../state/history.ts'
import { liveOf, openRuns, progressOf } from '../state/live.ts'
import { cancelRun, compared, select, selected } from '../state/run.ts'
import { Button } from '../ui/controls.tsx'
import { Icon } from '../ui/icons.tsx'

const STATE_WORDS: Record<Run['state'], string> = {
  ...{ sending: 'sending', queued: 'waiting', starting: 'starting', running: 'running' },
  ...{ succeeded: 'done', failed: 'failed', canceled: 'canceled' },
}

function Tile({ run }: { run: Run }) {
  const { preview, ...live } = liveOf(run.id)
  const share = isFinal(run) ? null : progressOf(run, { ...live, preview, state: run.state })
  const picture = run.images[0]?.thumbnail ?? preview
  const name = `${run.fields.prompt.slice(0, 80)}, seed ${run.fields.seed}, ${run.decision?.route ?? ''} ${STATE_WORDS[run.state]}`
  return (
    <li>
      <button
        type="button"
        class="tile"
        aria-label={name}
        aria-current={selected.value === run.id || compared.value === run.id}
        title={run.fields.prompt}
        onClick={() => select(run.id)}
      >
        {picture && <img src={picture} alt="" />}
        {run.state === 'failed' && <Icon name="warning" />}
        {run.state === 'canceled' && <Icon name="cancel" />}
        {!isFinal(run) && (
          <span class="tile-progress">
            <span style={{ '--share': share ?? 0 }} />
          </span>
        )}
        {run.decision && <span class="tile-route">{run.decision.route}</span>}
      </button>
    </li>
  )
}

/** The runs as a JSON file. Thumbnails are left out. */
function exportRuns(): void {
  const data = runs.value.map((run) => ({
    ...run,
    images: run.images.map(({ thumbnail: _, url: __, ...image }) => image),
  }))
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 2)], { type: 'application/json' }))
  link.download = 'octet-runs.json'
  link.click()
  URL.revokeObjectURL(link.href)
}

const clearRuns = () => {
  removeRuns(new Set(runs.value.filter(isFinal).map(({ id }) => id)))
  select(null)
}

export function History() {
  const open = openRuns.value
  return (
    <aside class="history" aria-labelledby="history-title">
      <header>
        <h2 id="history-title">History</h2>
        {open.length > 1 && (
          <Button kind="quiet" icon="cancel" onClick={() => void Promise.all(open.map(cancelRun))}>
            Cancel all
          </Button>
        )}
      </header>
      {runs.value.length === 0 ? (
        <p class="hint">Your runs appear here with their settings. They are kept in this browser only.</p>
      ) : (
        <>
          <ul>
            {runs.value.map((run) => (
              <Tile key={run.id} run={run} />
            ))}
          </ul>
          <footer>
            <Button kind="quiet" icon="download" onClick={exportRuns}>
              Export
            </Button>
            <Button kind="quiet" icon="trash" onClick={clearRuns}>
              Clear
            </Button>
          </footer>
        </>
      )}
    </aside>
  )
}
