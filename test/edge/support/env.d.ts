import type { D1Migration } from 'cloudflare:test'

type EdgeEnv = Env

declare global {
  namespace Cloudflare {
    /** What `env` of cloudflare:workers holds in a test: the worker's own, and the key that checks its tokens. */
    interface Env extends EdgeEnv {
      GPU_PUBLIC_KEY: string
      D1_MIGRATIONS: D1Migration[]
    }
    interface GlobalProps {
      mainModule: typeof import('../../../edge/index.ts')
    }
  }
}
