import type { Credential } from '../auth/keys.ts'
import type { JobRecord } from './record.ts'

/** Whether a credential may access a job. A key may access all jobs of its account, a browser token only jobs that it created. */
export const isOwner = (credential: Credential, { account, token }: Pick<JobRecord, 'account' | 'token'>): boolean =>
  account === credential.account && (!('token' in credential) || token === credential.token.id)
