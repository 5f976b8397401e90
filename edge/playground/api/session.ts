// The credential of this tab: an API key in sessionStorage, or a token on the operator's budget. It never leaves the tab otherwise.
import { computed, signal } from '@preact/signals'

type CredentialOfTab = { value: string; kind: 'key' | 'token'; account: string; keyId: string }

const STORED = 'octet.key'
const FORM = /^(oct|ost)_([a-z0-9-]{1,32})_([0-9a-f]{12})_/

/** Parses an API key or token; null for any other text. */
export function parseCredential(text: string): CredentialOfTab | null {
  const value = text.trim()
  const [, prefix, account, keyId] = FORM.exec(value) ?? []
  if (!account || !keyId) return null
  return { value, kind: prefix === 'oct' ? 'key' : 'token', account, keyId }
}

export const credential = signal<CredentialOfTab | null>(null)
/** Whether the dialog for the credential is open. */
export const keyDialog = signal(false)
/** The budget of a visitor's token in micro-dollars; null for a key. */
export const visitorBudget = signal<number | null>(null)
export const isVisitor = computed(() => credential.value?.kind === 'token')

export function useCredential(parsed: CredentialOfTab): void {
  credential.value = parsed
  visitorBudget.value = null
  sessionStorage.setItem(STORED, parsed.value)
}

export function forgetKey(): void {
  sessionStorage.removeItem(STORED)
  credential.value = null
}

/** Takes a key from the address (`#key=…`, as `npm run dev` prints it), and removes it from the address. */
function takeFromAddress(): CredentialOfTab | null {
  const given = new URLSearchParams(location.hash.slice(1)).get('key')
  if (given === null) return null
  history.replaceState(null, '', location.pathname)
  return parseCredential(given)
}

type Token = { token: string | null; budget_microdollars?: number }

/** Requests a token on the operator's budget, if this deployment has one. */
async function becomeVisitor(): Promise<void> {
  const response = await fetch('/v1/playground/tokens', { method: 'POST' }).catch(() => null)
  const body = response?.ok ? ((await response.json()) as Token) : null
  const parsed = body?.token ? parseCredential(body.token) : null
  if (!parsed || credential.value) return
  credential.value = parsed
  visitorBudget.value = body!.budget_microdollars ?? null
}

/** Restores the tab's credential. */
export function startSession(): void {
  const given = takeFromAddress()
  const stored = parseCredential(sessionStorage.getItem(STORED) ?? '')
  if (given) useCredential(given)
  else if (stored) credential.value = stored
  else void becomeVisitor()
}
