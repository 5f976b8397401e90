// Validates webhook URLs. They are chosen by callers and requested by the worker, so they must be HTTPS services on public hosts (SSRF).
import { configOf } from '../../config.ts'
import { ApiError } from '../../http/errors.ts'

export type AddressRules = {
  ports: ReadonlySet<string>
  /** Blocked hosts, including their subdomains. */
  blocked: readonly string[]
  /** Allows http and localhost. For development. */
  local: boolean
}

const MAX_LENGTH = 2048
/** The maximum number of characters of a rejected URL quoted in the message. */
const QUOTED = 120

/** Zones without public hosts (RFC 6761, 6762, 7686, 8375, 9476, and common private zones). */
const PRIVATE_ZONES =
  `localhost local localdomain internal intranet private corp home lan alt onion svc consul fritz.box
  arpa test example invalid`.split(/\s+/)
/** Public DNS services whose names resolve to an arbitrary embedded address, or to 127.0.0.1. */
const REBINDING_ZONES = `nip.io sslip.io xip.io localtest.me lvh.me vcap.me lacolhost.com rbndr.us localho.st traefik.me
  local.gd ip.addr.tools`.split(/\s+/)
/** Zones in which workers of one Cloudflare account reach each other without the public internet. */
const PLATFORM_ZONES = ['workers.dev', 'pages.dev', 'cloudflareworkers.com']

/** Returns the deployment's rules. `ownHosts` are this worker's hosts. */
export function createAddressRules(env: Env, ...ownHosts: string[]): AddressRules {
  const { ports, blocked, local } = configOf(env).webhookAddresses
  return { ports, blocked: [...ownHosts, ...blocked], local }
}

const isWithin = (host: string, zone: string) => host === zone || host.endsWith(`.${zone}`)
const portOf = ({ port, protocol }: URL) => port || (protocol === 'https:' ? '443' : '80')

/** The WHATWG URL parser has already normalized every IPv4 notation (octal, hex, single number, full-width) to dotted decimal. */
const isAddressLiteral = (host: string) => host.startsWith('[') || /^[\d.]+$/.test(host)

function findHostProblem(host: string, { blocked }: AddressRules): string | null {
  if (isAddressLiteral(host)) return 'must name a host, not an IP address'
  if (!host.includes('.')) return 'must name a public host'
  if ([...PRIVATE_ZONES, ...REBINDING_ZONES, ...PLATFORM_ZONES].some((zone) => isWithin(host, zone)))
    return 'must name a public host'
  return blocked.some((zone) => isWithin(host, zone.toLowerCase())) ? 'must not name this service itself' : null
}

/**
 * Returns the reason why `address` is not allowed, as the completion of "it must …", or null if it is allowed. Only the host name is
 * checked, because a worker cannot resolve it before connecting.
 */
export function findAddressProblem(address: string, rules: AddressRules): string | null {
  if (address.length > MAX_LENGTH) return `must have at most ${MAX_LENGTH} characters`
  // The parser would silently remove or convert these characters, which could disguise the real host.
  if (!/^[\x21-\x5b\x5d-\x7e]*$/.test(address)) return 'must be plain ASCII without spaces or backslashes'
  const url = URL.parse(address)
  if (!url) return 'must be an absolute URL'
  if (url.username || url.password) return 'must not contain a user name or password'
  if (rules.local) return /^https?:$/.test(url.protocol) ? null : 'must start with https:// or http://'
  if (url.protocol !== 'https:') return 'must start with https://'
  if (!rules.ports.has(portOf(url))) return `must use port ${[...rules.ports].join(' or ')}`
  return findHostProblem(url.hostname.replace(/(?<!\.)\.+$/, '').toLowerCase(), rules)
}

const quote = (address: string) =>
  address.length > QUOTED ? `${JSON.stringify(address.slice(0, QUOTED))}…` : JSON.stringify(address)

/** Rejects a URL that is not allowed as a webhook receiver. `ownUrl` is any URL of this worker. Errors: invalid_request for `param`. */
export function checkAddress(env: Env, ownUrl: string, address: string, param: string): void {
  const problem = findAddressProblem(address, createAddressRules(env, new URL(ownUrl).hostname))
  if (problem) throw new ApiError('invalid_request', `${param} is ${quote(address)}; it ${problem}.`, { param })
}

/** Returns the host and port of a valid URL. A trailing dot of the host is ignored. */
export function hostOf(address: string): string {
  const { hostname, port } = new URL(address)
  return `${hostname.replace(/(?<!\.)\.+$/, '')}${port && `:${port}`}`
}

/** Normalizes a valid URL for comparison, without the fragment, which is never sent. */
export function normalizeAddress(address: string): string {
  const url = new URL(address)
  url.host = hostOf(address)
  url.hash = ''
  return url.href
}

/** Redacts the query of a URL, which may contain a receiver's secret, for keys that do not manage webhooks. */
export function hideQuery(address: string): string {
  const at = address.search(/[?#]/)
  return at === -1 ? address : `${address.slice(0, at)}?…`
}
