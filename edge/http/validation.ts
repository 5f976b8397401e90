// Converts schema errors to one sentence per field: the field, the given value, and the allowed values. The size of the response is bounded
// for any input.
import type { Context } from 'hono'
import * as z from 'zod'
import type { EdgeEnv } from './context.ts'
import { ApiError, shorten } from './errors.ts'
import { limitStructure, readBytes, readText } from './request-body.ts'

const SHOWN_CHARACTERS = 60
const SHOWN_ITEMS = 10
const MAX_PROBLEMS = 10

/** Returns a truncated copy of a value, because JSON.stringify fails on deeply nested input. */
function outline(value: unknown, depth = 3): unknown {
  if (typeof value === 'string') return value.slice(0, SHOWN_CHARACTERS + 1)
  if (typeof value !== 'object' || value === null) return value
  if (depth === 0) return '…'
  if (Array.isArray(value)) {
    const items = value.slice(0, SHOWN_ITEMS).map((each) => outline(each, depth - 1))
    return value.length > SHOWN_ITEMS ? [...items, '…'] : items
  }
  const entries = Object.entries(value).slice(0, SHOWN_ITEMS)
  return Object.fromEntries(entries.map(([name, each]) => [shorten(name, SHOWN_CHARACTERS), outline(each, depth - 1)]))
}

/** Formats a value as JSON, truncated to 60 characters. */
export function formatValue(value: unknown): string {
  if (value === undefined) return 'missing'
  const text = shorten(JSON.stringify(outline(value)), SHOWN_CHARACTERS)
  return typeof value === 'string' && value.length > SHOWN_CHARACTERS ? `${text} (${value.length} characters)` : text
}

type Shape = Record<string, z.ZodType>
type Problem = { param: string | null; message: string }

/** Returns the description of a field, or of its inner schema if the field is optional or has a default. */
function describeAllowed(field: unknown): string {
  if (field instanceof z.ZodDefault || field instanceof z.ZodOptional)
    return field.description ?? describeAllowed(field.unwrap())
  return (field instanceof z.ZodType && field.description) || 'left out'
}

function problemsOf(issue: z.core.$ZodIssue, input: unknown, shape: Shape): Problem[] {
  const fields = Object.keys(shape).join(', ')
  if (issue.code === 'unrecognized_keys' && issue.path.length === 0) {
    return issue.keys.slice(0, MAX_PROBLEMS).map((key) => ({
      param: key,
      message: `${shorten(key, SHOWN_CHARACTERS)} is not a field of this request; allowed are ${fields}.`,
    }))
  }
  const [name] = issue.path
  if (typeof name !== 'string')
    return [{ param: null, message: `The body is ${formatValue(input)}; it must be a JSON object with ${fields}.` }]
  if (issue.code === 'custom') return [{ param: name, message: issue.message }]
  const given = (input as Record<string, unknown>)[name]
  return [{ param: name, message: `${name} is ${formatValue(given)}; it must be ${describeAllowed(shape[name])}.` }]
}

/** Returns the first problem of each field, up to MAX_PROBLEMS. */
function collectProblems({ issues }: z.ZodError, input: unknown, shape: Shape): Problem[] {
  const found = new Map<string | null, Problem>()
  for (const issue of issues) {
    for (const each of problemsOf(issue, input, shape)) if (!found.has(each.param)) found.set(each.param, each)
    if (found.size >= MAX_PROBLEMS) break
  }
  return [...found.values()].slice(0, MAX_PROBLEMS)
}

/**
 * Parses `input` or throws `invalid_request` with at most ten problems. `shape` is the schema's own. The `description` of a field
 * completes "it must be …"; the message of a refinement must be a whole sentence.
 */
export function parseFields<T>(schema: z.ZodType<T>, shape: Shape, input: unknown): T {
  const parsed = schema.safeParse(input)
  if (parsed.success) return parsed.data
  const errors = collectProblems(parsed.error, input, shape)
  const [first] = errors
  const param = first?.param
  throw new ApiError('invalid_request', first?.message ?? 'The request is not valid.', {
    errors,
    ...(param && { param }),
  })
}

const createUnsupportedTypeError = (type: string, allowed: string) =>
  new ApiError('unsupported_media_type', `The content-type is ${formatValue(type)}; it must be ${allowed}.`)

/** Reads a JSON body. Errors: unsupported_media_type, body_too_large, invalid_request. */
export async function readJson(c: Context<EdgeEnv>): Promise<unknown> {
  const type = c.req.header('content-type') ?? ''
  if (!/^application\/([a-z.-]+\+)?json\b/i.test(type)) throw createUnsupportedTypeError(type, 'application/json')
  const text = await readText(c)
  limitStructure(text)
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new ApiError(
      'invalid_request',
      `The body is not JSON: ${cause instanceof Error ? cause.message : 'it cannot be parsed'}.`,
    )
  }
}

/** Reads a JSON body like `readJson`; an absent or empty body is an empty object. */
export const readOptionalJson = async (c: Context<EdgeEnv>): Promise<unknown> =>
  c.req.raw.body === null || c.req.header('content-length') === '0' ? {} : readJson(c)

/** Whether the body is a form with files. */
export const isForm = (c: Context<EdgeEnv>): boolean =>
  /^multipart\/form-data\b/i.test(c.req.header('content-type') ?? '')

type Part = string | File

/**
 * Reads the nonempty parts of a form. Of several parts with the same name, the last one counts; a name that ends in `[]` keeps all of them
 * in a list. Errors: as readJson.
 */
export async function readForm(c: Context<EdgeEnv>): Promise<Record<string, Part | Part[]>> {
  const type = c.req.header('content-type') ?? ''
  if (!isForm(c)) throw createUnsupportedTypeError(type, 'multipart/form-data')
  const body = new Response(await readBytes(c), { headers: { 'content-type': type } })
  const form = await body.formData().catch((cause: unknown) => {
    const reason = cause instanceof Error ? cause.message : 'it cannot be parsed'
    throw new ApiError('invalid_request', `The body is not a form: ${reason}.`)
  })
  const isEmpty = (value: string | File) => (typeof value === 'string' ? value.length : value.size) === 0
  const parts = [...form].filter(([, value]) => !isEmpty(value))
  // Grouped in one pass, because a lookup by name reads all parts of the form.
  const listed = Map.groupBy(
    parts.filter(([name]) => name.endsWith('[]')),
    ([name]) => name,
  )
  const lists = Object.fromEntries([...listed].map(([name, those]) => [name, those.map(([, value]) => value)]))
  return { ...Object.fromEntries(parts), ...lists }
}
