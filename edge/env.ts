// What the worker is configured with: vars and bindings of wrangler.toml, and the secrets of .dev.vars or `wrangler secret put`.
import type { RequestIdVariables } from 'hono/request-id'
import type { AccountDO } from './account.ts'
import type { JobDO } from './job.ts'
import type { Credential } from './keys.ts'

export type Env = {
  ACCOUNT: DurableObjectNamespace<AccountDO>
  JOB: DurableObjectNamespace<JobDO>
  RESULTS: R2Bucket
  /** JSON text or the same as a TOML table; see catalogue.ts. */
  OCTET_CATALOGUE: unknown
  GPU_URL: string
  /** Seconds; see gpu-times.ts. */
  GPU_START_SECONDS: string
  GPU_SILENCE_SECONDS: string
  GPU_RUN_SECONDS: string
  GPU_RETRY_SECONDS: string
  /** `version:secret`, newest first, separated by commas; see keys.ts. */
  KEY_PEPPER: string
  /** Private Ed25519 JWK that signs what the worker asks of the GPU function. */
  GPU_SIGNING_KEY: string
  OCTET_ADMIN_TOKEN: string
}

/** The types of every Hono app here. `credential` is there after `keyRequired`. */
export type EdgeEnv = { Bindings: Env; Variables: RequestIdVariables & { credential: Credential } }
