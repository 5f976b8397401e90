// The MCP server in the worker's bundle, which has a stand-in for one of its modules (`alias` of wrangler.toml).
import path from 'node:path'
import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { expect, onTestFinished, test } from 'vitest'
import { startWorker } from '../../infra/local/servers/worker.ts'
import { createKey } from '../../infra/operator/keys.ts'
import { createSecrets } from '../../infra/operator/secrets.ts'
import { useScratch } from '../support/scratch.ts'

const scratch = useScratch()

test("the official client lists the bundled worker's tools and gets a quote", async () => {
  const { secrets } = await createSecrets()
  const size = { width: 64, height: 64, max_pixels: 64 * 64 }
  const worker = await startWorker({
    ...{ gpuUrl: 'http://127.0.0.1:9', persist: path.join(scratch.directory, 'state'), secrets },
    catalog: { offers: [{ route: 'turbo', model: 'custom', tier: 'fp32', steps: 2, guidance_scale: 1, ...size }] },
  })
  onTestFinished(worker.stop)
  const { key } = await createKey({ url: worker.url, token: secrets.OCTET_ADMIN_TOKEN }, 'agent')
  const client = new Client({ name: 'test', version: '1.0.0' })
  const requestInit = { headers: { authorization: `Bearer ${key}` } }
  await client.connect(new StreamableHTTPClientTransport(new URL(`${worker.url}/mcp`), { requestInit }))
  onTestFinished(() => client.close())
  const { tools } = await client.listTools()
  expect(tools.map(({ name }) => name).sort()).toEqual(['generate_image', 'get_job', 'quote_image'])
  const quote = await client.callTool({ name: 'quote_image', arguments: { prompt: 'a cat' } })
  expect(quote.isError ?? false).toBe(false)
  expect(JSON.stringify(quote.content)).toContain('custom')
})
