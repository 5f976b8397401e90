// The network families by name.
import type { Family } from './family.ts'
import { sd35 } from './sd35/sd35.ts'

export const FAMILIES = { sd35 } satisfies Record<string, Family>
export type FamilyName = keyof typeof FAMILIES
export const FAMILY_NAMES = Object.keys(FAMILIES) as FamilyName[]
