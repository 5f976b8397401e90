// OpenAI's image API: POST /v1/images/generations, edits and variations. platform.openai.com/docs/api-reference/images
import type { Dialect } from '../definition/dialect.ts'
import { parse, parseEdit } from './parse.ts'
import { renderReply, streamOf } from './render.ts'

/** Each route takes JSON or a form. */
const submit = { action: 'submit', accepts: 'json', hasHeartbeat: true, render: renderReply } as const

/** Text to image, edits and variations. Errors have OpenAI's `error` member in the native format already. */
export const openai: Dialect = {
  name: 'openai',
  keyPlaces: ['Bearer', 'x-api-key', 'api-key', 'Key', 'Token', 'Basic'],
  routes: [
    {
      method: 'POST',
      path: '/v1/images/generations',
      ...submit,
      parse,
      stream: streamOf('image_generation'),
    },
    {
      method: 'POST',
      path: '/v1/images/edits',
      ...submit,
      parse: parseEdit,
      stream: streamOf('image_edit'),
    },
    {
      method: 'POST',
      path: '/v1/images/variations',
      ...submit,
      parse: parseEdit,
      stream: streamOf('image_edit'),
    },
  ],
}
