import type { Scope } from '../../auth/scopes.ts'
import type { Limits } from '../../config/limits.ts'

/** The configurable fields of a key. `expires` is Unix milliseconds, or null for no expiry. */
export type KeyOptions = { label: string; scopes: Scope[]; limits: Limits; expires: number | null }
/** A partial update of KeyOptions. Omitted limits are unchanged on update and inherited from the creating key on creation. */
export type KeyChange = Partial<Omit<KeyOptions, 'limits'> & { limits: Partial<Limits> }>
/** A key without its secret. Times are Unix milliseconds. `created_by` is the id of the creating key, or null for the operator. */
export type KeyInfo = KeyOptions & {
  id: string
  lineage: string
  created: number
  revoked: number | null
  created_by: string | null
}
/** `creator_revoked`: an ancestor of this key was revoked. */
export type ListedKey = KeyInfo & { creator_revoked: boolean }
