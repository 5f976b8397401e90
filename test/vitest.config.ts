import path from 'node:path'
import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { exportJWK, generateKeyPair } from 'jose'
import { defineConfig } from 'vitest/config'

const root = path.join(import.meta.dirname, '..')

const { privateKey, publicKey } = await generateKeyPair('EdDSA', { extractable: true })

const offer = { model: 'tiny', tier: 'fp8', width: 256, height: 256 }
/** More than the built-in model can make, to see what the worker itself allows. */
const catalogue = {
  offers: [
    { ...offer, route: 'turbo', steps: 4, guidance_scale: 1, max_pixels: 1024 ** 2 },
    { ...offer, route: 'full', steps: 28, guidance_scale: 4.5, max_pixels: 2048 ** 2 },
  ],
}

/** The worker under test: made-up secrets, and deadlines short enough to watch them pass. */
const edgeBindings = {
  OCTET_CATALOGUE: JSON.stringify(catalogue),
  KEY_PEPPER: `2:${'new-pepper-'.repeat(4)},1:${'old-pepper-'.repeat(4)}`,
  GPU_SIGNING_KEY: JSON.stringify(await exportJWK(privateKey)),
  GPU_PUBLIC_KEY: JSON.stringify(await exportJWK(publicKey)),
  OCTET_ADMIN_TOKEN: 'operator-token-of-the-tests',
  GPU_URL: 'https://gpu.test',
  GPU_START_SECONDS: '2',
  GPU_SILENCE_SECONDS: '0.5',
  GPU_RUN_SECONDS: '2',
  GPU_RETRY_SECONDS: '0.01',
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
