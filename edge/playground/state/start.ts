import { effect } from '@preact/signals'
import { startSession } from '../api/session.ts'
import { loadRuns, runs } from './history.ts'
import { takeLink } from './link.ts'
import { liveOf, openRuns, progressOf, watchTime } from './live.ts'
import { ratioOf, watchModels } from './models.ts'
import { startPageNavigation } from './navigation.ts'
import { watchQuote } from './quote.ts'
import { resumeRuns, select, selected } from './run.ts'
import { watchKeys } from './shortcuts.ts'

/** The title of the tab shows the progress of the oldest open run. */
function watchTitle(): void {
  effect(() => {
    const run = openRuns.value.at(-1)
    const share = run ? progressOf(run, { ...liveOf(run.id), state: run.state }) : null
    document.title = share === null ? 'Octet' : `${Math.round(share * 100)}% · Octet`
  })
}

/** Restores the tab's state and connects it to the API. */
export function startPage(): void {
  startSession()
  startPageNavigation()
  watchKeys()
  watchModels()
  watchQuote()
  watchTime()
  watchTitle()
  takeLink(ratioOf)
  void loadRuns().then(() => {
    resumeRuns()
    if (!selected.value && runs.value[0]) select(runs.value[0].id)
  })
}
