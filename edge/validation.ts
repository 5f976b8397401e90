// Turns what a schema found into one sentence a field: the field, what was given, what is allowed.
import * as z from 'zod'
import { ApiError } from './errors.ts'

const SHOWN = 60

function shown(value: unknown): string {
  if (value === undefined) return 'missing'
  const text = JSON.stringify(value)
  return text.length <= SHOWN
    ? text
    : `${text.slice(0, SHOWN)}… (${typeof value === 'string' ? value.length : text.length} characters)`
}

type Shape = Record<string, z.ZodType>
type Problem = { param: string | null; message: string }

/** A field's description; of what it wraps, where it has a default or may be left out. */
function allowed(field: unknown): string {
  if (field instanceof z.ZodDefault || field instanceof z.ZodOptional)
    return field.description ?? allowed(field.unwrap())
  return (field instanceof z.ZodType && field.description) || 'left out'
}

function problems(issue: z.core.$ZodIssue, input: unknown, shape: Shape): Problem[] {
  const fields = Object.keys(shape).join(', ')
  if (issue.code === 'unrecognized_keys' && issue.path.length === 0) {
    return issue.keys.map((key) => ({
      param: key,
      message: `${key} is not a field of this request; allowed are ${fields}.`,
    }))
  }
  const [name] = issue.path
  if (typeof name !== 'string')
    return [{ param: null, message: `The body is ${shown(input)}; it must be a JSON object with ${fields}.` }]
  if (issue.code === 'custom') return [{ param: name, message: issue.message }]
  const given = (input as Record<string, unknown>)[name]
  return [{ param: name, message: `${name} is ${shown(given)}; it must be ${allowed(shape[name])}.` }]
}

/**
 * Parses `input` or throws `invalid_request` with every problem. `shape` is the schema's own: the `description` of a field says
 * what is allowed, as in "it must be …". A refinement's message must be a whole sentence.
 */
export function parseFields<T>(schema: z.ZodType<T>, shape: Shape, input: unknown): T {
  const parsed = schema.safeParse(input)
  if (parsed.success) return parsed.data
  const errors = parsed.error.issues.flatMap((issue) => problems(issue, input, shape))
  const [first] = errors
  const param = first?.param
  throw new ApiError('invalid_request', first?.message ?? 'The request is not valid.', {
    errors,
    ...(param && { param }),
  })
}

/** Reads a JSON body. Errors: unsupported_media_type, invalid_request. */
export async function readJson(request: Request): Promise<unknown> {
  const type = request.headers.get('content-type') ?? ''
  if (!/^application\/([a-z.-]+\+)?json\b/i.test(type)) {
    throw new ApiError('unsupported_media_type', `The content-type is ${shown(type)}; it must be application/json.`)
  }
  const text = await request.text()
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new ApiError(
      'invalid_request',
      `The body is not JSON: ${cause instanceof Error ? cause.message : 'it cannot be parsed'}.`,
    )
  }
}
