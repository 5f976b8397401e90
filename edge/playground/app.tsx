import type { FunctionComponent } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { credential, isVisitor, keyDialog } from './api/session.ts'
import { Form } from './generate/form.tsx'
import { KeyDialog } from './generate/key-dialog.tsx'
import { describeGpuState } from './generate/run-bar.tsx'
import { History } from './history/history.tsx'
import { Stage } from './stage/stage.tsx'
import { announcement } from './state/live.ts'
import { view } from './state/navigation.ts'
import { quote } from './state/quote.ts'
import { SHORTCUTS, shortcutsDialog } from './state/shortcuts.ts'
import { Dialog } from './ui/dialog.tsx'
import { Icon } from './ui/icons.tsx'
import { ThemeButton } from './ui/theme.tsx'

function AccessButton() {
  const { value } = credential
  const text = value === null ? 'Add a key' : isVisitor.value ? 'Visitor' : value.account
  return (
    <button type="button" class="button quiet access" onClick={() => (keyDialog.value = true)}>
      <Icon name="key" />
      <span>
        <span class="visually-hidden">Access: </span>
        {text}
      </span>
    </button>
  )
}

function GpuChip() {
  const [first] = quote.value.quotes
  if (!first) return null
  const { state, text } = describeGpuState(first.gpu)
  return (
    <span class={`chip gpu ${state}`} title={text}>
      <span>GPU {state}</span>
    </span>
  )
}

function Header() {
  const link = (name: 'playground' | 'account', href: string, text: string) => (
    <a href={href} {...(view.value === name && { 'aria-current': 'page' as const })}>
      {text}
    </a>
  )
  return (
    <header class="top">
      <a class="brand" href="#playground">
        <img src="/favicon.svg" alt="" width="20" height="20" />
        Octet
      </a>
      <nav aria-label="Pages">
        {link('playground', '#playground', 'Playground')}
        {link('account', '#account', 'Account')}
        <a href="/docs/">API</a>
      </nav>
      <div class="top-end">
        <GpuChip />
        <AccessButton />
        <ThemeButton />
      </div>
    </header>
  )
}

function ShortcutsDialog() {
  if (!shortcutsDialog.value) return null
  return (
    <Dialog title="Keyboard" onClose={() => (shortcutsDialog.value = false)}>
      <dl class="shortcuts">
        {SHORTCUTS.map(([keys, action]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{action}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  )
}

function Playground() {
  return (
    <main class="playground">
      <h1 class="visually-hidden">Playground</h1>
      <Form />
      <Stage />
      <History />
    </main>
  )
}

/** The account tab, loaded when it is opened. */
function AccountTab() {
  const [Account, setAccount] = useState<FunctionComponent | null>(null)
  useEffect(() => {
    void import('./account/account.tsx').then((module) => setAccount(() => module.Account))
  }, [])
  return <main class="account">{Account ? <Account /> : <p class="muted">Loading …</p>}</main>
}

export function App() {
  return (
    <>
      <Header />
      {view.value === 'account' ? <AccountTab /> : <Playground />}
      <KeyDialog />
      <ShortcutsDialog />
      <p class="visually-hidden" role="status">
        {announcement.value}
      </p>
    </>
  )
}
