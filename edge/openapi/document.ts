// The document of the API, OpenAPI 3.1, from the schemas that the routes parse with and the access rules of routes/access.ts. It is built
// into /openapi.json, so that the worker does not contain it.
import * as z from 'zod'
import type { Access } from '../auth/access.ts'
import type { Dialect, DialectRoute } from '../dialects/definition/dialect.ts'
import { DIALECTS } from '../dialects/dialects.ts'
import { generation } from '../requests/generation-request.ts'
import { ACCESS } from '../routes/access.ts'
import { EVENT_TYPES } from '../webhooks/endpoints/event-types.ts'
import { ACCOUNT_OPERATIONS } from './account.ts'
import { IMAGE_OPERATIONS } from './images.ts'
import type { Operation, Reply } from './operation.ts'
import * as replies from './replies.ts'
import { WEBHOOK_OPERATIONS } from './webhooks.ts'

const FOREIGN = 'Other APIs'
const ACTIONS: Record<DialectRoute['action'], string> = {
  submit: 'create a job',
  read: 'read a job',
  cancel: 'cancel a job',
  list: 'list jobs',
  follow: 'follow a job by server-sent events',
  interrupt: "cancel the key's open jobs",
  choose: 'choose a model for later requests',
  describe: 'facts about the deployment',
}

const PROMPT = 'a red heart on a blue background'
/** Requests of other APIs that run on every deployment. */
const FOREIGN_EXAMPLES: Readonly<Record<string, Record<string, object>>> = {
  'POST /v1/predictions': { wait: { input: { prompt: PROMPT, aspect_ratio: '1:1', seed: 7 } } },
  'POST /sdapi/v1/txt2img': { image: { prompt: PROMPT, width: 512, height: 512, seed: 7 } },
  'POST /hf': { image: { inputs: PROMPT, parameters: { seed: 7 } } },
}

const BODY_TYPES = { form: 'multipart/form-data', json: 'application/json' }

/** A route of another provider's API, which documents its requests and replies. */
function createForeignOperation(dialect: Dialect, route: DialectRoute): Operation {
  const examples = FOREIGN_EXAMPLES[`${route.method} ${route.path}`]
  return {
    ...{ tag: FOREIGN, summary: `${dialect.name}: ${ACTIONS[route.action]}` },
    ...('accepts' in route && { body: z.looseObject({}), bodyType: BODY_TYPES[route.accepts] }),
    ...(examples && { examples }),
    description: 'Requests and replies have the format of the named provider.',
    replies: { 200: { description: 'The reply in the format of that API' } },
    hasOwnErrors: true,
  }
}
const FOREIGN_OPERATIONS = Object.fromEntries(
  DIALECTS.flatMap((dialect) =>
    dialect.routes.map((route) => [`${route.method} ${route.path}`, createForeignOperation(dialect, route)] as const),
  ),
)

const MCP_OPERATION: Operation = {
  tag: FOREIGN,
  summary: 'Model Context Protocol: tools to generate an image, quote its price and read a job',
  description: 'A JSON-RPC message of the streamable HTTP transport, modelcontextprotocol.io.',
  body: z.looseObject({}),
  replies: { 200: { description: 'The reply as JSON or server-sent events' }, 202: { description: 'A notification' } },
  hasOwnErrors: true,
}

/** By method and path of the route. OpenAI's route is documented as a native one. */
export const OPERATIONS: Record<string, Operation> = {
  ...FOREIGN_OPERATIONS,
  'POST /mcp': MCP_OPERATION,
  ...IMAGE_OPERATIONS,
  ...ACCOUNT_OPERATIONS,
  ...WEBHOOK_OPERATIONS,
}

const { job, image, problem, webhookEvent, limits } = replies
/** Schemas with a name in the document. All others are inline. */
const NAMED = {
  ImageRequest: generation,
  Job: job,
  Image: image,
  Problem: problem,
  Limits: limits,
  Event: webhookEvent,
}
const registry = z.registry<{ id: string }>()
for (const [id, schema] of Object.entries(NAMED)) registry.add(schema, { id })

type Json = Record<string, unknown>
const formatReference = (id: string) => `#/components/schemas/${id}`

/** Removes details of little use to readers: long patterns of dates, and bounds of safe integers. */
function simplify({ jsonSchema }: { jsonSchema: z.core.JSONSchema.BaseSchema }): void {
  if (jsonSchema.format !== undefined) delete jsonSchema.pattern
  if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum
  if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum
}

// `input`: the schema of a request, before defaults and transformations. Replies have neither, and later versions may add fields.
const OPTIONS = { io: 'input', override: simplify, unrepresentable: 'any' } as const

function nameSchemas(): Json {
  const { schemas } = z.toJSONSchema(registry, { ...OPTIONS, uri: formatReference })
  return Object.fromEntries(Object.entries(schemas).map(([id, { $schema: _, $id: __, ...schema }]) => [id, schema]))
}

const FILE = z.file()

function schemaOf(schema: z.ZodType): Json {
  const id = registry.get(schema)?.id
  if (id) return { $ref: formatReference(id) }
  const { $schema: _, $defs: __, ...json } = z.toJSONSchema(schema, { ...OPTIONS, metadata: registry })
  return JSON.parse(JSON.stringify(json).replaceAll('#/$defs/', formatReference(''))) as Json
}

/** The fields of a request as a form, with files as input images. */
function schemaOfForm(body: z.ZodType): Json {
  const { $ref: _, ...json } = schemaOf((body as z.ZodObject).extend({}))
  const file = schemaOf(FILE)
  return { ...json, properties: { ...(json.properties as Json), image: file, mask: file } }
}

const headerOf = (name: string) => [name, { schema: { type: 'string' } }] as const

function replyOf({ description, schema, type = 'application/json', content, headers = [] }: Reply): Json {
  return {
    description,
    ...(headers.length > 0 && { headers: Object.fromEntries(headers.map(headerOf)) }),
    ...(schema && { content: { [type]: { schema: schemaOf(schema) } } }),
    ...(content && { content }),
  }
}

const PATH_PARAMETERS: Record<string, Json> = {
  id: { type: 'string', pattern: '^[A-Za-z0-9_-]{1,64}$' },
  job: { type: 'string', pattern: '^job_[0-9a-f]{32}$' },
  file: { type: 'string', pattern: '^[0-7]\\.(png|jpg|webp)$' },
  event: { type: 'string', pattern: '^[A-Za-z0-9_-]{1,100}$' },
  account: { type: 'string', pattern: '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$' },
}
/** A part of a path of another provider's API, such as the owner or the name of a model. */
const FOREIGN_PARAMETER = { type: 'string', minLength: 1 }

/** Converts a path of Hono to one of OpenAPI. */
const templateOf = (path: string) => path.replace(/:(\w+)(\{[^}]*\})?/g, '{$1}')

function parametersOf(path: string, { query, headers = {} }: Operation): Json[] {
  const inPath = [...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    ...{ name, in: 'path', required: true },
    schema: PATH_PARAMETERS[name!] ?? FOREIGN_PARAMETER,
  }))
  const inQuery = Object.entries(query?.shape ?? {}).map(([name, schema]) => ({
    ...{ name, in: 'query', required: false },
    schema: schemaOf(schema as z.ZodType),
  }))
  const inHeaders = Object.entries(headers).map(([name, description]) => ({
    ...{ name, in: 'header', description, schema: { type: 'string' } },
  }))
  return [...inPath, ...inQuery, ...inHeaders]
}

/** The credential of a route. */
function securityOf({ by, scope, tokens }: Access): Json[] {
  if (by === 'anyone') return []
  if (by === 'operator') return [{ operator: [] }]
  const scopes = by === 'manager' ? ['admin'] : scope ? [scope] : []
  return [
    { key: scopes },
    ...(tokens ? [{ token: scopes }] : []),
    ...(by === 'link' ? [{ link: [] }] : []),
    ...(by === 'manager' ? [{ operator: [] }] : []),
  ]
}

/** For example, getJobsId for `GET /v1/jobs/:id`. */
function idOf(route: string): string {
  const words = route.split(/[^A-Za-z0-9]/).filter((word) => word !== '' && word !== 'v1')
  return words.map((word, k) => (k === 0 ? word.toLowerCase() : word[0]!.toUpperCase() + word.slice(1))).join('')
}

const FOREIGN_ERROR = { description: 'An error in the format of that API' }
const isWithContent = (status: string) => status !== '204' && status !== '304'

function operationOf(route: string, operation: Operation): Json {
  const {
    tag,
    summary,
    description,
    body,
    bodyType = 'application/json',
    isForm,
    isBodyOptional,
    examples,
    links,
  } = operation
  const [, path] = route.split(' ') as [string, string]
  const values = Object.entries(examples ?? {}).map(([name, value]) => [name, { value }])
  const linked = Object.entries(links ?? {}).map(([name, [target, parameter, expression]]) => [
    name,
    { operationId: idOf(target), parameters: { [parameter]: expression } },
  ])
  const responses = Object.entries(operation.replies).map(([status, reply]) => [
    status,
    { ...replyOf(reply), ...(linked.length > 0 && isWithContent(status) && { links: Object.fromEntries(linked) }) },
  ])
  return {
    operationId: idOf(route),
    ...{ tags: [tag], summary },
    ...(description && { description }),
    parameters: parametersOf(path, operation),
    ...(body && {
      requestBody: {
        required: !isBodyOptional,
        content: {
          [bodyType]: {
            schema: schemaOf(body),
            ...(values.length > 0 && { examples: Object.fromEntries(values) }),
          },
          ...(isForm && { 'multipart/form-data': { schema: schemaOfForm(body) } }),
        },
      },
    }),
    responses: {
      ...Object.fromEntries(responses),
      default: operation.hasOwnErrors ? FOREIGN_ERROR : { $ref: '#/components/responses/Problem' },
    },
    security: securityOf(ACCESS[route]!),
  }
}

function createPaths(): Json {
  const found: Record<string, Json> = {}
  for (const [route, operation] of Object.entries(OPERATIONS)) {
    const [method, path] = route.split(' ') as [string, string]
    const name = templateOf(path)
    found[name] = { ...found[name], [method.toLowerCase()]: operationOf(route, operation) }
  }
  return found
}

const WEBHOOK_HEADERS = {
  'webhook-id': 'The id of the event, the same for each attempt.',
  'webhook-timestamp': 'Unix seconds of the attempt.',
  'webhook-signature': 'Signatures of Standard Webhooks, separated by spaces.',
}

const createWebhooks = (): Json =>
  Object.fromEntries(
    EVENT_TYPES.map((type) => [
      type,
      {
        post: {
          ...{ operationId: idOf(`on ${type}`), tags: ['Webhooks'] },
          summary: `A job ${type.slice('job.'.length)}`,
          parameters: Object.entries(WEBHOOK_HEADERS).map(([name, description]) => ({
            ...{ name, in: 'header', required: true, description, schema: { type: 'string' } },
          })),
          requestBody: {
            required: true,
            content: { 'application/json': { schema: { $ref: formatReference('Event') } } },
          },
          responses: { '2XX': { description: 'Received. Any other response is retried, except 410.' } },
        },
      },
    ]),
  )

const createBearerScheme = (description: string) => ({ type: 'http', scheme: 'bearer', description })

/** The document, as JSON. */
export function openApiDocument(): Json {
  return {
    openapi: '3.1.0',
    info: {
      title: 'Octet',
      version: '0.1.0',
      summary: 'A text-to-image API for Stable Diffusion 3.5.',
      description: 'Amounts of money are micro-dollars and times are Unix seconds, unless a field says otherwise.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/' }],
    tags: ['Images', 'Jobs', 'Account', 'Keys', 'Webhooks', FOREIGN, 'Operator'].map((name) => ({ name })),
    paths: createPaths(),
    webhooks: createWebhooks(),
    components: {
      schemas: nameSchemas(),
      responses: {
        Problem: {
          description: 'An error: RFC 9457, with the member `error` of OpenAI',
          content: { 'application/problem+json': { schema: { $ref: formatReference('Problem') } } },
        },
      },
      securitySchemes: {
        key: createBearerScheme('An API key, oct_…'),
        token: createBearerScheme('A browser token, ost_…, within its own jobs'),
        operator: createBearerScheme('OCTET_ADMIN_TOKEN'),
        link: { type: 'apiKey', in: 'query', name: 'sig', description: 'A signed link of a reply' },
      },
    },
  }
}
