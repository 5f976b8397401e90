// The fields of OpenAI's route beyond the native ones. Adjusted values cause warnings. The route itself is more lenient; see
// dialects/openai.
import * as z from 'zod'
import { MAX_IMAGES, MAX_PROMPT } from '../dialects/openai/parse.ts'
import { generation } from '../requests/generation-request.ts'

const { shape } = generation
const text = z.string()

/** Other fields have no effect, with a warning. */
export const openaiRequest = z.looseObject({
  ...shape,
  prompt: text
    .min(1)
    .max(MAX_PROMPT)
    .describe(`a text of 1 to ${MAX_PROMPT} characters; the model receives the first 10000`),
  n: z.int().min(1).max(MAX_IMAGES).default(1).describe('an integer from 1 to 10; more than 8 are served as 8'),
  size: text.default('auto').describe('"auto" or "WIDTHxHEIGHT"; the nearest size of the model serves it'),
  width: z.int().min(1).optional().describe('pixels; the nearest size of the model serves them'),
  height: z.int().min(1).optional(),
  seed: z
    .union([z.literal(-1), shape.seed])
    .optional()
    .describe('as of a job; -1 is a random seed'),
  quality: text.default('auto').describe('auto, draft, low, standard, medium, high, hd, xhigh or max'),
  response_format: text.optional().describe('url or b64_json; both without this field, if the size allows them'),
  background: text.optional().describe('auto or opaque'),
  stream: z.boolean().optional().describe('whether the reply is a stream of events, with previews for partial_images'),
  strict: z.boolean().optional().describe('whether a size that the model does not have is an error'),
})
