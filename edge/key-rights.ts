// What a key of scope `admin` may grant: nothing beyond what it has itself. Pure.
import type { Scope } from './keys.ts'
import type { Limits } from './limits.ts'

/** What a key may do. `expires` is Unix milliseconds; a null is no limit and no end. */
export type Rights = { scopes: Scope[]; limits: Limits; expires: number | null }

const exceeds = (granted: number | null, own: number | null) => own !== null && (granted === null || granted > own)
const namesOf = (limits: Limits) => Object.keys(limits) as (keyof Limits)[]

/** The fields in which `granted` goes beyond `own`, as the API names them. */
export function excessOf(granted: Rights, own: Rights): string[] {
  return [
    ...(granted.scopes.every((scope) => own.scopes.includes(scope)) ? [] : ['scopes']),
    ...namesOf(own.limits).filter((name) => exceeds(granted.limits[name], own.limits[name])),
    ...(exceeds(granted.expires, own.expires) ? ['expires_in'] : []),
  ]
}

const lower = (a: number | null, b: number | null) => (a === null ? b : b === null ? a : Math.min(a, b))

/** The lowest of each limit: a key is bound by its own and by those of the keys that it descends from. */
export const lowestLimits = (all: readonly [Limits, ...Limits[]]): Limits =>
  all.reduce((a, b) => Object.fromEntries(namesOf(a).map((name) => [name, lower(a[name], b[name])])) as Limits)

export const isUnlimited = (limits: Limits) => Object.values(limits).every((limit) => limit === null)
