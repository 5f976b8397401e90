// The progress of runs, which is not stored.
import { computed, effect, signal } from '@preact/signals'
import type { GpuState } from '../api/types.ts'
import { isFinal, type Run, runs } from './history.ts'

type LiveProgress = {
  /** Jobs ahead in the queue. */
  position: number | null
  gpu: GpuState | null
  /** The start of the wait for the GPU, and its expected duration in milliseconds. */
  waitBegan: number
  waitMs: number | null
  image: number
  step: number
  steps: number
  /** A data URL. */
  preview: string | null
  isReconnecting: boolean
}

const NOT_LIVE: LiveProgress = {
  ...{ position: null, gpu: null, waitBegan: 0, waitMs: null },
  ...{ image: 0, step: 0, steps: 0, preview: null, isReconnecting: false },
}
export const live = signal<Record<string, LiveProgress>>({})
export const liveOf = (id: string): LiveProgress => live.value[id] ?? NOT_LIVE
export function patchLive(id: string, change: Partial<LiveProgress>): void {
  live.value = { ...live.peek(), [id]: { ...(live.peek()[id] ?? NOT_LIVE), ...change } }
}
export function endLive(id: string): void {
  const { [id]: _, ...others } = live.peek()
  live.value = others
}

/** The time, updated four times per second while a run is in progress. */
export const now = signal(Date.now())
export const openRuns = computed(() => runs.value.filter((run) => !isFinal(run)))
const isAnyOpen = computed(() => openRuns.value.length > 0)

/** The message for screen readers. */
export const announcement = signal('')
export const announce = (text: string) => {
  announcement.value = text
}

/** The share of a run that is done, for a bar. Null if it is unknown. */
export function progressOf(
  run: Run,
  { state, waitBegan, waitMs, image, step, steps }: LiveProgress & Pick<Run, 'state'>,
) {
  if (state === 'running') return steps === 0 ? 0 : (image * steps + step) / (run.fields.n * steps)
  if (waitMs === null) return null
  const share = (now.value - waitBegan) / waitMs
  return share > 1 ? null : share
}

const seconds = (ms: number) => Math.max(0, Math.round(ms / 1000))
const formatOrdinal = (n: number) =>
  `${n}${['th', 'st', 'nd', 'rd'][n % 100 > 10 && n % 100 < 14 ? 0 : n % 10] ?? 'th'}`
/** Minimum duration of a wait with an explanation. */
const EXPLAINED_MS = 600

/** The state of an open run in words: what happens, and how long it takes. */
export function describeRun(run: Run, of: LiveProgress): { title: string; detail: string } {
  if (of.isReconnecting) return { title: 'Reconnecting', detail: 'The connection was lost. The job continues.' }
  if (run.state === 'sending') return { title: 'Sending', detail: '' }
  if (run.state === 'running') {
    const several = run.fields.n > 1 ? `Image ${of.image + 1} of ${run.fields.n}, step` : 'Step'
    return { title: 'Generating', detail: of.steps > 0 ? `${several} ${of.step} of ${of.steps}` : 'First step' }
  }
  if (of.position !== null && of.position > 0)
    return { title: 'In the queue', detail: `${formatOrdinal(of.position + 1)} in line` }
  const waited = now.value - of.waitBegan
  if (!of.gpu || of.gpu.state === 'warm' || of.waitBegan === 0 || waited < EXPLAINED_MS)
    return { title: 'Waiting for the GPU', detail: '' }
  const usual = of.waitMs === null ? '' : `of about ${seconds(of.waitMs)} s`
  const isLate = of.waitMs !== null && waited > of.waitMs
  const late = isLate ? ', longer than usual' : ''
  return { title: 'Starting the GPU', detail: `${seconds(waited)} s ${usual}${late}. Starting is free.` }
}

export function watchTime(): void {
  effect(() => {
    if (!isAnyOpen.value) return
    const timer = setInterval(() => {
      now.value = Date.now()
    }, 250)
    return () => clearInterval(timer)
  })
}
