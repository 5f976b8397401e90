// /openapi.json against the worker: its routes, its examples, and its replies.
import { afterEach, describe, test, vi } from 'vitest'
import type * as z from 'zod'
import { app } from '../../../edge/app.ts'
import { OPERATIONS, openApiDocument } from '../../../edge/openapi/document.ts'
import { problem } from '../../../edge/openapi/replies.ts'
import { type Caller, newCaller, send } from '../support/client.ts'
import { fakeGpu, works } from '../support/fake-gpu.ts'
import { waitForEnd } from '../support/jobs.ts'

afterEach(() => vi.restoreAllMocks())

type DocumentedOperation = { operationId: string; parameters: { name: string; in: string; schema?: object }[] }
const document = openApiDocument() as {
  paths: Record<string, Record<string, DocumentedOperation>>
  webhooks: Record<string, unknown>
}
const newAdmin = () => newCaller({ scopes: ['generate', 'read', 'admin'] })

test('the document contains exactly the routes of the worker', ({ expect }) => {
  const routes = app.routes.filter(({ method }) => method !== 'ALL').map(({ method, path }) => `${method} ${path}`)
  expect(Object.keys(OPERATIONS).toSorted()).toEqual([...new Set(routes)].toSorted())
})

test('every path is a template, and each of its parameters has a schema', ({ expect }) => {
  for (const [path, methods] of Object.entries(document.paths)) {
    expect(path).toMatch(/^(\/([\w.-]+|\{\w+\}))+$/)
    const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
    for (const { parameters } of Object.values(methods)) {
      const inPath = parameters.filter((each) => each.in === 'path')
      expect(inPath.map(({ name }) => name)).toEqual(names)
      for (const { schema } of inPath) expect(schema).toMatchObject({ type: 'string' })
    }
  }
})

test('the form of a route with an input image has its fields, with the image as a file', ({ expect }) => {
  type Body = { schema: { properties: Record<string, object>; required?: string[]; $ref?: string } }
  const forms = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.values(methods).flatMap((operation) => {
      const { requestBody } = operation as { requestBody?: { content: Record<string, Body> } }
      const form = requestBody?.content['multipart/form-data']
      return form ? [{ path, form, json: requestBody.content['application/json'] }] : []
    }),
  )
  const jobs = ['/v1/jobs', '/v1/jobs/{id}']
  const openai = ['generations', 'edits', 'variations'].map((name) => `/v1/images/${name}`)
  const stability = '/v2beta/stable-image/generate/sd3'
  expect(forms.map(({ path }) => path).toSorted()).toEqual([...jobs, ...openai, stability].toSorted())
  for (const { path, form, json } of forms.filter(({ path }) => path !== stability)) {
    expect(form.schema.properties, path).toMatchObject({
      strength: { type: 'number' },
      image: { type: 'string', format: 'binary' },
      mask: { type: 'string', format: 'binary' },
    })
    if (!json!.schema.$ref) expect(Object.keys(json!.schema.properties)).toEqual(Object.keys(form.schema.properties))
  }
})

test('every reference has a target, and every operation a unique id', ({ expect }) => {
  const text = JSON.stringify(document)
  const targets = new Set([...text.matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, path]) => path!))
  for (const path of targets) {
    const target = path
      .split('/')
      .reduce<unknown>((value, name) => (value as Record<string, unknown>)?.[name], document)
    expect(target, path).toBeDefined()
  }
  expect(targets.size).toBeGreaterThan(3)
  const ids = Object.values(document.paths).flatMap((methods) => Object.values(methods).map((each) => each.operationId))
  expect(new Set(ids).size).toBe(ids.length)
  expect(Object.keys(document.webhooks)).toEqual(['job.succeeded', 'job.failed', 'job.canceled'])
})

const examples = Object.entries(OPERATIONS).flatMap(([route, operation]) =>
  Object.entries(operation.examples ?? {}).map(([name, body]) => ({ route, name, body, operation })),
)

/** Parses a reply with the documented schema of its status. */
async function parseReply(response: Response, route: string): Promise<z.ZodSafeParseResult<unknown>> {
  const reply = OPERATIONS[route]!.replies[response.status]
  if (!reply?.schema) throw new Error(`${route} has no documented reply of status ${response.status}`)
  return reply.schema.safeParse(await response.json())
}

describe('an example', () => {
  test.for(examples)('of $route, $name, is a valid request', async ({ route, body }, { expect }) => {
    fakeGpu(works)
    const [method, path] = route.split(' ') as [string, string]
    const response = await send(method, path.replace(':id', 'default'), await newAdmin(), body)
    if (OPERATIONS[route]!.hasOwnErrors) {
      expect(response.status).toBeLessThan(300)
      return void (await response.body?.cancel())
    }
    const parsed = await parseReply(response, route)
    expect(parsed.error).toBeUndefined()
  })
})

type World = { caller: Caller; job: string; webhook: string; event: string }
const READS: Record<string, (world: World) => string> = {
  'GET /v1/jobs': () => '/v1/jobs',
  'GET /v1/jobs/:id': ({ job }) => `/v1/jobs/${job}`,
  'GET /v1/jobs/:id/receipts': ({ job }) => `/v1/jobs/${job}/receipts`,
  'GET /v1/models': () => '/v1/models',
  'GET /v1/models/:id': () => '/v1/models/auto',
  'GET /v1/usage': () => '/v1/usage',
  'GET /v1/keys': () => '/v1/keys',
  'GET /v1/keys/:id': ({ caller }) => `/v1/keys/${caller.keyId}`,
  'GET /v1/webhooks': () => '/v1/webhooks',
  'GET /v1/webhooks/default/secret': () => '/v1/webhooks/default/secret',
  'GET /v1/webhooks/:id': ({ webhook }) => `/v1/webhooks/${webhook}`,
  'GET /v1/webhooks/:id/deliveries': ({ webhook }) => `/v1/webhooks/${webhook}/deliveries`,
  'GET /.well-known/jwks.json': () => '/.well-known/jwks.json',
  'GET /healthz': () => '/healthz',
}

async function newWorld(): Promise<World> {
  const caller = await newAdmin()
  fakeGpu(works)
  const { id: job } = (await (await send('POST', '/v1/jobs', caller, { prompt: 'a cat' })).json()) as { id: string }
  await waitForEnd({ id: job })
  const added = await send('POST', '/v1/webhooks', caller, { url: 'https://example.com/hooks' })
  const { id: webhook } = (await added.json()) as { id: string }
  const { id: event } = (await (await send('POST', `/v1/webhooks/${webhook}/test`, caller, {})).json()) as {
    id: string
  }
  return { caller, job, webhook, event }
}

test.for(Object.entries(READS))('the reply of %s has the documented fields', async ([route, path], { expect }) => {
  const world = await newWorld()
  const parsed = await parseReply(await send('GET', path(world), world.caller), route)
  expect(parsed.error).toBeUndefined()
})

test('an error has the documented schema', async ({ expect }) => {
  const response = await send('POST', '/v1/jobs', await newAdmin(), { prompt: 5, n: 0 })
  expect(response.status).toBe(400)
  expect(problem.safeParse(await response.json()).error).toBeUndefined()
})
