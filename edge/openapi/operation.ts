import type * as z from 'zod'

export type Reply = {
  description: string
  schema?: z.ZodType
  /** The media type of `schema`; JSON by default. */
  type?: string
  /** A body that is not JSON: its media type, and its schema as JSON Schema. */
  content?: Record<string, { schema: object; example?: string }>
  headers?: readonly string[]
}

/** An operation of the document. Its credential, scope and body limit come from routes/access.ts. */
export type Operation = {
  tag: string
  summary: string
  description?: string
  query?: z.ZodObject
  headers?: Record<string, string>
  body?: z.ZodType
  /** The media type of the body; JSON by default. */
  bodyType?: string
  /** Whether the body may also be a form, with files as input images. */
  isForm?: boolean
  /** Whether the body may be missing. */
  isBodyOptional?: boolean
  /** Example requests, complete enough to be sent. */
  examples?: Record<string, object>
  replies: Record<number, Reply>
  /** Whether errors have the format of another provider's API. */
  hasOwnErrors?: boolean
  /** Links to operations that take a value of the reply: name → [operation, parameter, expression]. */
  links?: Record<string, readonly [route: string, parameter: string, expression: string]>
}
