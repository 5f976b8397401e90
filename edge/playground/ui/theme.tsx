import { signal } from '@preact/signals'
import { Button } from './controls.tsx'
import type { IconName } from './icons.tsx'

const THEMES = ['auto', 'light', 'dark'] as const
type Theme = (typeof THEMES)[number]
const ICONS: Record<Theme, IconName> = { auto: 'system', light: 'sun', dark: 'moon' }
const STORED = 'octet.theme'

const isTheme = (text: string | null): text is Theme => THEMES.some((theme) => theme === text)
const initial = localStorage.getItem(STORED)
const theme = signal<Theme>(isTheme(initial) ? initial : 'auto')

function choose(next: Theme): void {
  theme.value = next
  localStorage.setItem(STORED, next)
  if (next === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = next
}

/** Cycles through the system's theme, light and dark. */
export function ThemeButton() {
  const next = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!
  return (
    <Button
      icon={ICONS[theme.value]}
      label={`Theme: ${theme.value}. Change to ${next}`}
      kind="quiet"
      onClick={() => choose(next)}
    />
  )
}
