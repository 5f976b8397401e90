// The browser tokens that visitors of the playground get without a key: the variable OCTET_PLAYGROUND.
import * as z from 'zod'
import { createTableSchema } from './values.ts'

const schema = z.strictObject({
  /** The budget of each token. The limits of PLAYGROUND_KEY apply to all tokens together. */
  token_microdollars: z.int().min(1).default(20_000),
  /** Within TOKEN_SECONDS of auth/tokens.ts. */
  token_seconds: z.int().min(10).max(3600).default(3600),
})

export const playgroundTokens = z
  .object({ OCTET_PLAYGROUND: createTableSchema(schema.prefault({})) })
  .transform(({ OCTET_PLAYGROUND }) => OCTET_PLAYGROUND)
