import { useState } from 'preact/hooks'
import type { Run } from '../state/history.ts'
import { Choice, CopyButton } from '../ui/controls.tsx'
import { Dialog } from '../ui/dialog.tsx'
import { type Language, SNIPPETS } from './snippets.ts'

const LANGUAGES: { value: Language; text: string }[] = [
  { value: 'curl', text: 'curl' },
  { value: 'python', text: 'Python' },
  { value: 'javascript', text: 'JavaScript' },
  { value: 'replicate', text: 'Replicate' },
  { value: 'link', text: 'Link' },
]

export function CodeDialog({ run, onClose }: { run: Run; onClose: () => void }) {
  const [language, setLanguage] = useState<Language>('curl')
  const code = SNIPPETS[language](run)
  return (
    <Dialog title="The same image as code" onClose={onClose} isWide>
      <Choice legend="Language" name="language" options={LANGUAGES} value={language} onChange={setLanguage} />
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: long code scrolls, so that the keyboard must reach it. */}
      <pre tabIndex={0}>
        <code>{code}</code>
      </pre>
      <footer>
        <p class="hint">
          {language === 'link'
            ? 'Opening the link fills the form and runs nothing.'
            : 'Set OCTET_KEY to an API key first.'}
        </p>
        <CopyButton kind="primary" text={() => code} />
      </footer>
    </Dialog>
  )
}
