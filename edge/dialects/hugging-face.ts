// Hugging Face's text-to-image and image-to-image tasks: POST to the base URL of the client. huggingface.co/docs/inference-providers/tasks/text-to-image
import * as z from 'zod'
import type { Problem } from '../http/errors.ts'
import { parseFields } from '../http/validation.ts'
import type { Dialect, DialectRequest, DialectRoute, RenderedJob, Translation } from './definition/dialect.ts'
import { readImageInput } from './definition/image-input.ts'
import { createWarningHeader } from './definition/warning-header.ts'

const body = z.object({
  inputs: z.string().describe('the prompt, or an image as base64 if parameters has the prompt'),
  parameters: z.record(z.string(), z.unknown()).describe('an object').optional(),
})

/** The model is the last part of the path: `/hf/nano`, or `/hf/owner/nano`. */
function parse({ params, body: given }: DialectRequest): Translation {
  const { inputs, parameters = {} } = parseFields(body, body.shape, given)
  // The image-to-image task has its prompt among the parameters.
  const own = 'prompt' in parameters ? { image: inputs } : { prompt: inputs }
  const { fields, ...others } = readImageInput({ ...parameters, ...sizeOf(parameters), ...own })
  const model = params.model?.split('/').at(-1) ?? 'auto'
  return { fields: { ...fields, n: 1, model }, ...others, wait: 'end' }
}

/** The task's `target_size`, as `width` and `height`. */
function sizeOf({ target_size: size }: Record<string, unknown>): Record<string, unknown> {
  return typeof size === 'object' && size !== null && !Array.isArray(size) ? { ...size } : {}
}

const render = ({ job }: RenderedJob) => ({ image: 0, headers: createWarningHeader(job.warnings) })

/** 504 replaces 503, which the JavaScript client retries at once and without limit. The Python client shows the header. */
const createError = ({ status, detail, request_id }: Problem) => ({
  ...(status === 503 && { status: 504 as const }),
  headers: { 'x-error-message': detail.replace(/[^\x20-\x7e]/g, '?') },
  json: { error: detail, request_id },
})

const route = (path: string): DialectRoute => ({
  method: 'POST',
  path,
  ...{ action: 'submit', accepts: 'json', parse, render },
})

/** The image as bytes. */
export const huggingFace: Dialect = {
  name: 'hugging-face',
  routes: [route('/hf'), route('/hf/:model{.+}')],
  cors: { origins: '*', exposedHeaders: ['x-error-message', 'x-octet-warning'] },
  error: createError,
}
