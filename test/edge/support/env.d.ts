import type { D1Migration } from 'cloudflare:test'

type EdgeEnv = Env
type Variable =
  | `GPU_${'URL' | 'SLOTS' | 'DEVICES' | 'SIGNING_KEY' | 'RUN_SECONDS'}`
  | `WEBHOOK_${'BREAKER_SECONDS' | 'REPLAYS_PER_MINUTE'}`
  | 'KEY_PEPPER'
  | 'OCTET_ADMIN_TOKEN'
  | 'RECEIPT_SIGNING_KEYS'

declare global {
  namespace Cloudflare {
    /** `env` of cloudflare:workers in a test: the worker's bindings and variables, and values for the tests. */
    interface Env extends EdgeEnv, Record<Variable, string> {
      OCTET_CATALOG: unknown
      SHIPPED_CATALOG: string
      OCTET_PRICES: unknown
      OCTET_RECOVERY: unknown
      GPU_PUBLIC_KEY: string
      D1_MIGRATIONS: D1Migration[]
    }
    interface GlobalProps {
      mainModule: typeof import('../../../edge/index.ts')
    }
  }
}
