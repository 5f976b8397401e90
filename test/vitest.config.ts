import { availableParallelism } from 'node:os'
import path from 'node:path'
import { cloudflareTest, readD1Migrations } from '@cloudflare/vitest-plugin'
import { exportJWK, generateKeyPair } from 'jose'
import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'
import { unstable_readConfig } from 'wrangler'
import { createReceiptKey } from '../infra/operator/secrets.ts'

const root = path.join(import.meta.dirname, '..')

/** The processes of the tests share compiled code, which halves the CPU time of their starts. `npm ci` deletes the directory. */
process.env.NODE_COMPILE_CACHE ??= path.join(root, 'node_modules/.cache/compile')

const { privateKey, publicKey } = await generateKeyPair('EdDSA', { extractable: true })

const offer = { model: 'tiny', tier: 'fp8', width: 256, height: 256 }
const paired = { ...offer, model: 'paired', endpoint: 'default', fallbacks: ['spare'] }
/** Larger sizes than those of the built-in model, for tests of the worker's own limits. */
const catalog = {
  endpoints: { spare: 'https://spare.test' },
  offers: [
    { ...offer, route: 'turbo', steps: 4, guidance_scale: 1, max_pixels: 1024 ** 2 },
    { ...paired, route: 'turbo', steps: 4, guidance_scale: 1, max_pixels: 1024 ** 2 },
    { ...offer, route: 'full', steps: 28, guidance_scale: 4.5, max_pixels: 4096 ** 2 },
  ],
}

/** The configuration as shipped. */
const shipped = unstable_readConfig({ config: path.join(root, 'wrangler.toml') }, { hideWarnings: true })

/** The worker under test, with generated secrets and short time limits. */
const edgeBindings = {
  OCTET_CATALOG: JSON.stringify(catalog),
  SHIPPED_CATALOG: JSON.stringify(shipped.vars.OCTET_CATALOG),
  KEY_PEPPER: `2:${'new-pepper-'.repeat(4)},1:${'old-pepper-'.repeat(4)}`,
  GPU_SIGNING_KEY: JSON.stringify(await exportJWK(privateKey)),
  GPU_PUBLIC_KEY: JSON.stringify(await exportJWK(publicKey)),
  OCTET_ADMIN_TOKEN: 'operator-token-of-the-tests-of-octet',
  RECEIPT_SIGNING_KEYS: JSON.stringify([await createReceiptKey(), await createReceiptKey()]),
  D1_MIGRATIONS: await readD1Migrations(path.join(root, 'edge/migrations')),
  GPU_URL: 'https://gpu.test',
  GPU_START_SECONDS: '2',
  GPU_SILENCE_SECONDS: '0.5',
  GPU_RUN_SECONDS: '2',
  GPU_RETRY_SECONDS: '0.01',
  GPU_SLOTS: '1000',
  GPU_SHARING: '1',
  GPU_FAILOVER_SECONDS: '0.2',
  GPU_PROXY_HEADERS: JSON.stringify({
    default: { 'modal-key': 'wk-1', 'modal-secret': 'ws-1' },
    spare: { authorization: 'Bearer of-the-host' },
  }),
  WEBHOOK_TIMEOUT_SECONDS: '0.5',
  WEBHOOK_RETRY_SECONDS: '0,0,0,0,0,0,0,0,0',
  WEBHOOK_BREAKER_SECONDS: '0',
}

/** As in wrangler.toml, without the wait for a batch to fill. */
const queueConsumers = {
  'octet-usage': { maxBatchTimeout: 0.05 },
}

const CAMPAIGN = 'test/e2e/campaign.test.ts'

/** Starts the end-to-end tests first, which take longest and often wait: at the end, they would leave cores idle. */
class EndToEndFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files)
    const isEndToEnd = ({ moduleId }: TestSpecification) => moduleId.includes('/test/e2e/')
    return [...sorted.filter(isEndToEnd), ...sorted.filter((file) => !isEndToEnd(file))]
  }
}

export default defineConfig({
  root,
  test: {
    sequence: { sequencer: EndToEndFirst },
    // The log of a passing test contains only messages that it provokes.
    silent: 'passed-only',
    // Vitest's default is one worker fewer than cores. Many tests wait, so two cores need three.
    maxWorkers: Math.max(3, availableParallelism() - 1),
    projects: [
      {
        root,
        test: {
          name: 'node',
          include: ['test/{gpu-fn,infra,e2e}/**/*.test.ts'],
          exclude: [CAMPAIGN],
          globalSetup: ['test/support/native/build.ts'],
          testTimeout: 120_000,
          hookTimeout: 300_000,
        },
      },
      {
        root,
        // Runs last and alone, because its callers have time limits.
        test: { name: 'campaign', include: [CAMPAIGN], sequence: { groupOrder: 1 } },
      },
      {
        root,
        plugins: [
          cloudflareTest({
            wrangler: { configPath: path.join(root, 'wrangler.toml') },
            miniflare: { bindings: edgeBindings, queueConsumers },
          }),
        ],
        test: {
          name: 'edge',
          include: ['test/edge/**/*.test.ts'],
          setupFiles: ['test/edge/support/setup.ts'],
          isolate: false, // test/edge/support/setup.ts separates the files
          testTimeout: 30_000,
        },
      },
    ],
  },
})
