// Where a webhook may go. A caller names the address and we send from inside, so it must be a public host's HTTPS service (SSRF).
import type { Env } from './env.ts'
import { ApiError } from './errors.ts'

export type AddressRules = {
  ports: ReadonlySet<string>
  /** Hosts that get nothing, with all below them. */
  blocked: readonly string[]
  /** For development: http and hosts of this machine are allowed. */
  local: boolean
}

const MAX_LENGTH = 2048
/** Characters of a refused address that the message quotes. */
const QUOTED = 120

/** Names that never belong to a public host (RFC 6761, 6762, 7686, 8375, 9476 and what private networks use). */
const PRIVATE_ZONES = [
  ...['localhost', 'local', 'localdomain', 'internal', 'intranet', 'private', 'corp', 'home', 'lan', 'alt', 'onion'],
  ...['arpa', 'test', 'example', 'invalid'],
]
/** Public names made to resolve to whatever address they spell, or to 127.0.0.1. */
const REBINDING_ZONES = [
  'nip.io',
  'sslip.io',
  'xip.io',
  'localtest.me',
  'lvh.me',
  'vcap.me',
  'lacolhost.com',
  'rbndr.us',
]
/** Workers of this account call each other here without passing the public internet. */
const PLATFORM_ZONES = ['workers.dev', 'pages.dev', 'cloudflareworkers.com']

const words = (text: string) => text.split(/[\s,]+/).filter(Boolean)

/** The deployment's rules. `ownHosts` are those that this worker answers at. */
export function addressRules(env: Env, ...ownHosts: string[]): AddressRules {
  return {
    ports: new Set(words(env.WEBHOOK_PORTS)),
    blocked: [...ownHosts, ...words(env.WEBHOOK_BLOCKED_HOSTS)],
    local: env.WEBHOOK_LOCAL === 'true',
  }
}

const lies = (host: string, zone: string) => host === zone || host.endsWith(`.${zone}`)
const portOf = ({ port, protocol }: URL) => port || (protocol === 'https:' ? '443' : '80')

/** WHATWG parsing has by now turned every spelling of an IPv4 address (octal, hex, one number, full-width) into four decimals. */
const isAddressLiteral = (host: string) => host.startsWith('[') || /^[\d.]+$/.test(host)

function hostProblem(host: string, { blocked }: AddressRules): string | null {
  if (isAddressLiteral(host)) return 'must name a host, not an IP address'
  if (!host.includes('.')) return 'must name a public host'
  if ([...PRIVATE_ZONES, ...REBINDING_ZONES, ...PLATFORM_ZONES].some((zone) => lies(host, zone)))
    return 'must name a public host'
  return blocked.some((zone) => lies(host, zone.toLowerCase())) ? 'must not name this service itself' : null
}

/**
 * Says why a webhook must not be sent to `address`, as in "it must …", or null when it may. The name is judged, not
 * what it resolves to: a worker cannot ask before it connects.
 */
export function addressProblem(address: string, rules: AddressRules): string | null {
  if (address.length > MAX_LENGTH) return `must have at most ${MAX_LENGTH} characters`
  // The parser would drop or turn these silently, and a reader would take the address for another.
  if (!/^[\x21-\x5b\x5d-\x7e]*$/.test(address)) return 'must be plain ASCII without spaces or backslashes'
  const url = URL.parse(address)
  if (!url) return 'must be an absolute URL'
  if (url.username || url.password) return 'must not hold a user name or password'
  if (rules.local) return /^https?:$/.test(url.protocol) ? null : 'must start with https:// or http://'
  if (url.protocol !== 'https:') return 'must start with https://'
  if (!rules.ports.has(portOf(url))) return `must use port ${[...rules.ports].join(' or ')}`
  return hostProblem(url.hostname.replace(/(?<!\.)\.+$/, '').toLowerCase(), rules)
}

const quote = (address: string) =>
  address.length > QUOTED ? `${JSON.stringify(address.slice(0, QUOTED))}…` : JSON.stringify(address)

/** Refuses an address that no webhook may go to. `ownUrl` is any address of this worker. Errors: invalid_request, naming `param`. */
export function checkAddress(env: Env, ownUrl: string, address: string, param: string): void {
  const problem = addressProblem(address, addressRules(env, new URL(ownUrl).hostname))
  if (problem) throw new ApiError('invalid_request', `${param} is ${quote(address)}; it ${problem}.`, { param })
}

/** Host and port of a valid address. A trailing dot names the same host. */
export function hostOf(address: string): string {
  const { hostname, port } = new URL(address)
  return `${hostname.replace(/(?<!\.)\.+$/, '')}${port && `:${port}`}`
}

/** The form in which two valid addresses are compared: normalized by WHATWG URL, without the fragment, which is never sent. */
export function normalizeAddress(address: string): string {
  const url = new URL(address)
  url.host = hostOf(address)
  url.hash = ''
  return url.href
}

/** An address for a reader who does not manage webhooks: without the query, which may hold a secret of the receiver. */
export function hideQuery(address: string): string {
  const at = address.search(/[?#]/)
  return at === -1 ? address : `${address.slice(0, at)}?…`
}
