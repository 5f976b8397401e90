// Helpers that send admission requests to an account.

import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import type { AdmissionRequest } from '../../../edge/accounts/admission.ts'
import type { JobSpec } from '../../../edge/accounts/job-spec.ts'
import { type Credential, checkKey } from '../../../edge/auth/keys.ts'
import { newJobId } from '../../../edge/jobs/job-id.ts'
import type { Caller } from './client.ts'
import { peppers } from './config.ts'
import { specOf } from './jobs.ts'

export const accountOf = ({ account }: Caller) => env.ACCOUNT.getByName(account)

export type RequestedSpec = Partial<Pick<JobSpec, 'name' | 'price' | 'fingerprint' | 'digest'>> &
  Partial<Pick<AdmissionRequest, 'idempotencyKey' | 'retried' | 'reuse'>> & { job?: string }

/** Builds an admission request for a job; its price is 100 micro-dollars unless `asked` overrides it. */
export function requestOf(credential: Credential, asked: RequestedSpec = {}): AdmissionRequest {
  const { job = newJobId(), idempotencyKey = null, retried = false, reuse = false, ...facts } = asked
  const token = 'token' in credential ? credential.token.id : null
  return {
    credential,
    spec: { ...specOf(credential, job), price: 100, token, ...facts },
    idempotencyKey,
    retried,
    reuse,
  }
}

export const createRequest = async (caller: Caller, asked: RequestedSpec = {}): Promise<AdmissionRequest> =>
  requestOf((await checkKey(peppers, caller.key))!, asked)

export const admit = async (caller: Caller, asked: RequestedSpec = {}) =>
  accountOf(caller).admit(await createRequest(caller, asked))

export const queryRows = (caller: Caller, sql: string) =>
  runInDurableObject(accountOf(caller), (_, { storage }) => storage.sql.exec(sql).toArray())

export type Statement = Parameters<SqlStorage['exec']>
/** Returns a database that calls `before` with each statement before executing it. */
export function interceptStatements(sql: SqlStorage, before: (...statement: Statement) => void): SqlStorage {
  const exec = (...statement: Statement) => {
    before(...statement)
    return sql.exec(...statement)
  }
  return new Proxy(sql, { get: (_, name) => (name === 'exec' ? exec : Reflect.get(sql, name)) })
}
