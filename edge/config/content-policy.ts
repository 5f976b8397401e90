// The content policy for prompts: the variable OCTET_CONTENT_POLICY.
import * as z from 'zod'
import { wordsOf } from '../platform/words.ts'
import { createTableSchema } from './values.ts'

const phrase = z
  .string()
  .max(100)
  .transform(wordsOf)
  .refine((words) => words !== '', 'it must have a letter or a digit')

const schema = z.strictObject({
  /** Words and phrases that a prompt must not contain. Case, accents, width and invisible characters are ignored. */
  block: z.array(phrase).max(1000).default([]),
  /** A service with OpenAI's moderation API, at `url`/v1/moderations. Its key is the secret MODERATION_API_KEY. */
  moderation: z
    .strictObject({
      url: z.url({ protocol: /^https?$/ }),
      model: z.string().min(1).max(100).default('omni-moderation-latest'),
      timeout_seconds: z.number().positive().max(30).default(5),
      /** Without a usable reply: `refuse` fails closed, `allow` fails open. */
      on_error: z.enum(['refuse', 'allow']).default('refuse'),
    })
    .optional(),
})
type ContentPolicy = z.infer<typeof schema>
export type Moderation = NonNullable<ContentPolicy['moderation']>

export const contentPolicy = z
  .object({ OCTET_CONTENT_POLICY: createTableSchema(schema.prefault({})) })
  .transform(({ OCTET_CONTENT_POLICY }) => OCTET_CONTENT_POLICY)
