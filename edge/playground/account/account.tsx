import { credential, isVisitor } from '../api/session.ts'
import type { Usage } from '../api/types.ts'
import { KeyForm } from '../generate/key-dialog.tsx'
import { Keys } from './keys.tsx'
import { LimitsSection } from './limits.tsx'
import { useResource } from './resource.ts'
import { UsageSection } from './usage.tsx'
import { Webhooks } from './webhooks.tsx'

/** The account tab: usage, limits, keys and webhooks of the key's account. */
export function Account() {
  const { value } = credential
  if (!value || isVisitor.value)
    return (
      <div class="account-gate">
        <h1>Account</h1>
        <p class="muted">Usage, limits, keys and webhooks belong to an API key. Paste a key to see its account.</p>
        <KeyForm onDone={() => {}} />
      </div>
    )
  return <Sections account={value.account} />
}

function Sections({ account }: { account: string }) {
  const usage = useResource<Usage>('/v1/usage')
  const isAdmin = usage.data?.key.scopes.includes('admin') ?? false
  return (
    <>
      <header class="account-title">
        <h1>{account}</h1>
        <nav aria-label="Sections">
          {['Usage', 'Limits', 'Keys', 'Webhooks'].map((name) => (
            <button
              key={name}
              type="button"
              class="link"
              onClick={() => document.querySelector(`#${name.toLowerCase()}`)?.scrollIntoView({ block: 'start' })}
            >
              {name}
            </button>
          ))}
        </nav>
      </header>
      <div id="usage">
        <UsageSection />
      </div>
      <div id="limits">
        <LimitsSection usage={usage} isAdmin={isAdmin} />
      </div>
      <div id="keys">
        <Keys isAdmin={isAdmin} />
      </div>
      <div id="webhooks">
        <Webhooks isAdmin={isAdmin} />
      </div>
    </>
  )
}
