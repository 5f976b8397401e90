/** The permissions of a key or token. `admin` allows managing the account's keys. */
export const SCOPES = ['generate', 'read', 'admin'] as const
export type Scope = (typeof SCOPES)[number]
