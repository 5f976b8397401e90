import path from 'node:path'
import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { exportJWK, generateKeyPair } from 'jose'
import { defineConfig } from 'vitest/config'

const root = path.join(import.meta.dirname, '..')

const { privateKey, publicKey } = await generateKeyPair('EdDSA', { extractable: true })

/** The worker under test: made-up secrets, and deadlines short enough to watch them pass. */
const edgeBindings = {
  KEY_PEPPER: `2:${'new-pepper-'.repeat(4)},1:${'old-pepper-'.repeat(4)}`,
  GPU_SIGNING_KEY: JSON.stringify(await exportJWK(privateKey)),
  GPU_PUBLIC_KEY: JSON.stringify(await exportJWK(publicKey)),
  OCTET_ADMIN_TOKEN: 'operator-token-of-the-tests',
  GPU_URL: 'https://gpu.test',
  GPU_START_SECONDS: '2',
  GPU_SILENCE_SECONDS: '0.5',
}

export default defineConfig({
  root,
  test: {
    projects: [
      {
        root,
        test: {
          name: 'node',
          include: ['test/{gpu-fn,infra,e2e}/**/*.test.ts'],
          testTimeout: 120_000,
          hookTimeout: 300_000,
        },
      },
      {
        root,
        plugins: [
          cloudflareTest({
            wrangler: { configPath: path.join(root, 'wrangler.toml') },
            miniflare: { bindings: edgeBindings },
          }),
        ],
        test: { name: 'edge', include: ['test/edge/**/*.test.ts'], testTimeout: 30_000 },
      },
    ],
  },
})
