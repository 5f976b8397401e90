// The rights that a key with the `admin` scope may grant: at most its own. Pure.
import type { Scope } from '../../auth/scopes.ts'
import type { Limits } from '../../config/limits.ts'

/** The rights of a key. `expires` is Unix milliseconds; null means no limit or no expiry. */
export type Rights = { scopes: Scope[]; limits: Limits; expires: number | null }

const findExcess = (granted: number | null, own: number | null) => own !== null && (granted === null || granted > own)
const namesOf = (limits: Limits) => Object.keys(limits) as (keyof Limits)[]

/** Returns the API names of the fields in which `granted` exceeds `own`. */
export function excessOf(granted: Rights, own: Rights): string[] {
  return [
    ...(granted.scopes.every((scope) => own.scopes.includes(scope)) ? [] : ['scopes']),
    ...namesOf(own.limits).filter((name) => findExcess(granted.limits[name], own.limits[name])),
    ...(findExcess(granted.expires, own.expires) ? ['expires_in'] : []),
  ]
}

const lower = (a: number | null, b: number | null) => (a === null ? b : b === null ? a : Math.min(a, b))

/** Returns the minimum of each limit: a key is subject to its own limits and those of its ancestors. */
export const combineLimits = (all: readonly [Limits, ...Limits[]]): Limits =>
  all.reduce((a, b) => Object.fromEntries(namesOf(a).map((name) => [name, lower(a[name], b[name])])) as Limits)

export const isUnlimited = (limits: Limits) => Object.values(limits).every((limit) => limit === null)
