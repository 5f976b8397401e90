import { formatMoney, formatSeconds, pluralize } from '../api/format.ts'
import { credential, keyDialog } from '../api/session.ts'
import type { GpuState, Quote } from '../api/types.ts'
import { draft, rejected } from '../state/draft.ts'
import { price, quote } from '../state/quote.ts'
import { runDraft } from '../state/run.ts'
import { Icon } from '../ui/icons.tsx'
import { ErrorNote } from '../ui/note.tsx'

/** The state of the GPU in words. */
export function describeGpuState(gpu: GpuState | null): {
  state: 'warm' | 'starting' | 'cold' | 'unknown'
  text: string
} {
  if (!gpu) return { state: 'unknown', text: 'GPU state unknown' }
  const { state, ready_in_seconds: seconds } = gpu
  if (state === 'warm') return { state, text: 'GPU is warm' }
  if (state === 'starting') return { state, text: `GPU is starting, ready in about ${seconds} s` }
  return { state, text: `GPU is off, starts in about ${seconds} s at no cost` }
}

/** The expected duration of all runs in words, with the number of runs that it was measured on. */
function timeWords(quotes: readonly Quote[]): string {
  if (quotes.some(({ expected_seconds }) => expected_seconds === null)) return 'No runs measured yet'
  const sum = quotes.reduce((total, { expected_seconds }) => total + expected_seconds!.p50, 0)
  const seen = Math.min(...quotes.map(({ observations }) => observations))
  return `About ${formatSeconds(sum)}, from ${pluralize(seen, 'run')}`
}

function QuoteLines({ quotes }: { quotes: readonly Quote[] }) {
  const [first] = quotes
  if (!first) return null
  const gpu = describeGpuState(first.gpu)
  const why = quotes.length > 1 ? 'Turbo and full run at the same seed.' : first.reason
  return (
    <dl class="quote">
      <div>
        <dt>Route</dt>
        <dd>
          <strong>{quotes.map(({ route }) => route).join(' + ')}</strong>
          <span>{quotes.map(({ model, steps }) => `${model}, ${pluralize(steps, 'step')}`).join(' · ')}</span>
          <span class="muted">{why}</span>
        </dd>
      </div>
      <div>
        <dt>Time</dt>
        <dd>
          {timeWords(quotes)}
          <span class={`gpu ${gpu.state}`}>{gpu.text}</span>
        </dd>
      </div>
    </dl>
  )
}

const isMac = /Mac|iPhone|iPad/.test(navigator.platform)

export function RunBar() {
  const { quotes, problem, isStale } = quote.value
  const isElsewhere = problem?.param != null && rejected.value !== null
  return (
    <div class="run-bar">
      <div class={isStale ? 'stale' : ''} aria-busy={isStale}>
        {quotes.length > 0 && <QuoteLines quotes={quotes} />}
        {problem && !isElsewhere && (
          <ErrorNote error={problem}>
            {problem.code === 'invalid_api_key' && (
              <button type="button" class="link" onClick={() => (keyDialog.value = true)}>
                Change the key
              </button>
            )}
          </ErrorNote>
        )}
        {credential.value && draft.value.prompt.trim() === '' && (
          <p class="quote-hint">Type a prompt to see its price, route and time.</p>
        )}
      </div>
      <button
        type="button"
        class="button primary run"
        aria-keyshortcuts="Control+Enter"
        onClick={() => void runDraft()}
      >
        {!credential.value && <Icon name="key" />}
        {credential.value ? 'Run' : 'Add a key'}
        {credential.value && quotes.length > 0 && <span class="price">{formatMoney(price.value)}</span>}
        {credential.value && <kbd>{isMac ? '⌘' : 'Ctrl'} ↵</kbd>}
      </button>
    </div>
  )
}
