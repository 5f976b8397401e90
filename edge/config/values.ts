// Schemas for the values of variables.
import * as z from 'zod'

/** JSON text, or a table of wrangler.toml. A missing value is undefined. */
export const createTableSchema = <Schema extends z.ZodType>(schema: Schema) =>
  z.preprocess((given, context) => {
    if (typeof given !== 'string') return given ?? undefined
    try {
      return JSON.parse(given)
    } catch {
      context.addIssue({ code: 'custom', message: 'it must be a table, or JSON text', input: given })
      return z.NEVER
    }
  }, schema)

/** Text that `parse` converts. Null, or an error of `parse`, is a malformed value. `description` completes "it must be …". */
export const createTextSchema = <T>(description: string, parse: (text: string) => T | null) =>
  z
    .string()
    .transform((given, context) => {
      try {
        const value = parse(given)
        if (value !== null) return value
      } catch {}
      context.addIssue({ code: 'custom', message: `it must be ${description}`, input: given })
      return z.NEVER
    })
    .describe(description)
