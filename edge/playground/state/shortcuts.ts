// The keyboard. Single letters act only while the focus is in the result or the history, not in a field.
import { signal } from '@preact/signals'
import { useFields } from './draft.ts'
import { findRun, isFinal, runs } from './history.ts'
import { ratioOf } from './models.ts'
import { view } from './navigation.ts'
import { cancelRun, runDraft, select, selected, toggleComparison } from './run.ts'

export const shortcutsDialog = signal(false)
export const SHORTCUTS: [keys: string, action: string][] = [
  ['Ctrl or ⌘ + Enter', 'Run'],
  ['/', 'Go to the prompt'],
  ['Alt + ↑ or ↓', 'Earlier or later prompt, in the prompt'],
  ['← or →', 'Newer or older run'],
  ['C', 'Compare turbo and full'],
  ['D', 'Download'],
  ['S', 'Use the settings of the run'],
  ['X', 'Cancel the run'],
  ['?', 'This list'],
]

const isTyping = (element: Element | null) =>
  element instanceof HTMLTextAreaElement ||
  element instanceof HTMLSelectElement ||
  (element instanceof HTMLInputElement && element.type !== 'radio')

function move(step: number): void {
  const at = runs.value.findIndex(({ id }) => id === selected.value) + step
  const run = runs.value[at]
  if (run) select(run.id)
}

function onLetter(key: string): boolean {
  const run = findRun(selected.value)
  if (key === 'ArrowLeft') move(-1)
  else if (key === 'ArrowRight') move(1)
  else if (!run) return false
  else if (key === 'c' && run.state === 'succeeded') toggleComparison(run)
  else if (key === 'd') document.querySelector<HTMLButtonElement>('.actions button')?.click()
  else if (key === 's') useFields(run.fields, ratioOf(run.fields.size))
  else if (key === 'x' && !isFinal(run)) void cancelRun(run)
  else return false
  return true
}

function onKey(event: KeyboardEvent): void {
  const isOpen = document.querySelector('dialog[open]') !== null
  if (view.value !== 'playground' || isOpen || event.defaultPrevented) return
  if (event.key === 'Enter' && (event.metaKey || event.ctrlKey)) {
    event.preventDefault()
    void runDraft()
    return
  }
  const focus = document.activeElement
  if (event.metaKey || event.ctrlKey || event.altKey || isTyping(focus)) return
  if (event.key === '/') document.querySelector<HTMLElement>('#prompt')?.focus()
  else if (event.key === '?') shortcutsDialog.value = true
  else if (!focus?.closest('.stage, .history') || !onLetter(event.key)) return
  event.preventDefault()
}

export const watchKeys = () => addEventListener('keydown', onKey)
