// The MCP server: streamable HTTP without sessions, with the API key as the bearer token. modelcontextprotocol.io/specification
import { type CallToolResult, createMcpHandler, McpServer, type ServerContext } from '@modelcontextprotocol/server'
import { type Context, Hono } from 'hono'
import * as z from 'zod'
import { meterRequest } from '../../auth/auth.ts'
import type { EdgeEnv } from '../../http/context.ts'
import { describeThrown } from '../../http/errors.ts'
import { readJson } from '../../http/validation.ts'
import { generateImage, getJob, quoteImage } from './tools.ts'

/** The fields of a request for images. The native schema validates their values. */
const imageFields = z.object({
  prompt: z.string().describe('What the image shows'),
  negative_prompt: z.string().optional().describe('What the image does not show'),
  model: z.string().optional().describe('A model of the deployment; auto by default'),
  n: z.number().optional().describe('The number of images, 1 to 8'),
  size: z.string().optional().describe('auto or WIDTHxHEIGHT, such as 256x256'),
  seed: z.number().optional().describe('A whole number; the same seed and fields produce the same image'),
  quality: z.string().optional().describe('auto, low, medium or high'),
  output_format: z.string().optional().describe('png, jpeg or webp'),
  max_cost: z.number().optional().describe('The most US dollars for the request; otherwise it is refused'),
})
const jobFields = z.object({ id: z.string().describe('The id of a job of generate_image') })

const INSTRUCTIONS =
  'Generates images from text. quote_image states the price of a request; generate_image runs it. ' +
  'Results are links, with a small preview of the first image.'

/** Runs a tool. Errors become text results, because a language model reads them. */
async function runAsText(c: Context<EdgeEnv>, run: () => Promise<CallToolResult>): Promise<CallToolResult> {
  try {
    return await run()
  } catch (thrown) {
    return { isError: true, content: [{ type: 'text', text: describeThrown(c, thrown).detail }] }
  }
}

const readOnly = { readOnlyHint: true, openWorldHint: false }

/** The server for one request of a caller. */
function createServer(c: Context<EdgeEnv>): McpServer {
  const server = new McpServer({ name: 'octet', version: '1' }, { instructions: INSTRUCTIONS })
  const generates = { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: false }
  server.registerTool(
    'generate_image',
    {
      title: 'Generate images',
      description: 'Generates images from a prompt. Costs money; quote_image states the price in advance.',
      inputSchema: imageFields,
      annotations: generates,
    },
    (fields, context: ServerContext) => runAsText(c, () => generateImage(c, fields, context)),
  )
  server.registerTool(
    'quote_image',
    {
      title: 'Quote a price',
      description: 'States the price and the expected duration of a request, without running it.',
      inputSchema: imageFields,
      annotations: readOnly,
    },
    (fields) => runAsText(c, () => quoteImage(c, fields)),
  )
  server.registerTool(
    'get_job',
    {
      title: 'Get a job',
      description: 'Waits up to 45 seconds for a job, and returns its images or its progress.',
      inputSchema: jobFields,
      annotations: readOnly,
    },
    (fields, context: ServerContext) => runAsText(c, () => getJob(c, fields, context)),
  )
  return server
}

/** The SDK refuses larger batches. */
const MAX_MESSAGES = 100

/** Counts the messages of a batch after the first as requests, because each may call a tool. Errors: rate_limited. */
async function meterBatch(c: Context<EdgeEnv>, body: unknown): Promise<void> {
  const messages = Array.isArray(body) ? Math.min(body.length, MAX_MESSAGES) : 1
  for (let more = 1; more < messages; more++) await meterRequest(c, c.get('credential'))
}

/** POST /mcp. Messages have the official SDK's format; errors ahead of them, such as a bad key, are problem documents. */
export const mcp = new Hono<EdgeEnv>().post('/', async (c) => {
  const parsedBody = await readJson(c)
  await meterBatch(c, parsedBody)
  return createMcpHandler(() => createServer(c)).fetch(c.req.raw, { parsedBody })
})
