// OpenAI's image API: POST /v1/images/generations. platform.openai.com/docs/api-reference/images
import type { Dialect } from '../definition/dialect.ts'
import { parse } from './parse.ts'
import { renderReply, stream } from './render.ts'

const NO_IMAGE_INPUT =
  'Image input is not offered by this model, which generates images from text only; use POST /v1/images/generations.'

/** Text to image. Errors have OpenAI's `error` member in the native format already. */
export const openai: Dialect = {
  name: 'openai',
  keyPlaces: ['Bearer', 'x-api-key', 'api-key', 'Key', 'Token', 'Basic'],
  routes: [
    {
      method: 'POST',
      path: '/v1/images/generations',
      action: 'submit',
      accepts: 'json',
      hasHeartbeat: true,
      parse,
      render: renderReply,
      stream,
    },
    {
      method: 'POST',
      path: '/v1/images/edits',
      action: 'refuse',
      message: NO_IMAGE_INPUT,
    },
    {
      method: 'POST',
      path: '/v1/images/variations',
      action: 'refuse',
      message: NO_IMAGE_INPUT,
    },
  ],
}
