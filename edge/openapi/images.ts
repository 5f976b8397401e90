// The operations for images, jobs and models.
import * as z from 'zod'
import { generation } from '../requests/generation-request.ts'
import { page } from '../requests/view.ts'
import { query as prewarmQuery } from '../routes/prewarm.ts'
import { openaiRequest } from './openai-request.ts'
import type { Operation, Reply } from './operation.ts'
import * as replies from './replies.ts'

const HEADERS = {
  'Idempotency-Key': 'The same key with the same body returns the same job and charges once, for 24 hours.',
}
const WAIT = { Prefer: '`wait=SECONDS`, at most 60: waits for the end of the job.' }
const SAMPLE = { prompt: 'a red heart on a blue background', route: 'turbo', seed: 7 }
/** A PNG of one pixel. */
const PIXEL =
  'data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
const ENDED: Reply = { description: 'The job has ended', schema: replies.job, headers: ['x-octet-job'] }
const OPEN: Reply = {
  description: 'The job is not over',
  schema: replies.job,
  headers: ['location', 'x-octet-job', 'preference-applied', 'retry-after'],
}
const JOB_LINKS = {
  read: ['GET /v1/jobs/:id', 'id', '$response.body#/id'],
  cancel: ['POST /v1/jobs/:id/cancel', 'id', '$response.body#/id'],
} as const
const file = { schema: { type: 'string', contentEncoding: 'binary' } }
const FILES = { 'image/png': file, 'image/jpeg': file, 'image/webp': file }
const text = { type: 'string' }
/** The fields of one server-sent event. `data` is JSON. */
const EVENT = { type: 'object', required: ['id', 'event', 'data'], properties: { id: text, event: text, data: text } }
const EVENTS = `id: 1
event: queued
data: {"type":"queued","job":"job_…","attempt":0,"at":1796000000.1}

id: 5
event: step
data: {"type":"step","job":"job_…","attempt":1,"at":1796000001.2,"image":0,"step":1,"steps":4}
`

const images = { tag: 'Images', body: generation }
const openaiEdit = openaiRequest.required({ image: true })
const openai = { tag: 'Images', body: openaiRequest, isForm: true, headers: HEADERS }
const MADE = {
  200: { description: 'The images', schema: replies.images, headers: ['x-octet-job', 'server-timing'] },
} as const

export const IMAGE_OPERATIONS: Record<string, Operation> = {
  'POST /v1/images/generations': {
    ...openai,
    summary: 'Generate images and wait for them',
    description:
      "OpenAI's route. The member `octet` of the reply has the job, the route with its reason, and the price.",
    examples: { turbo: SAMPLE, inline: { ...SAMPLE, response_format: 'b64_json', output_format: 'webp' } },
    replies: MADE,
  },
  'POST /v1/images/edits': {
    ...{ ...openai, body: openaiEdit },
    summary: 'Generate images from an input image and wait for them',
    description: "OpenAI's route. Transparent parts of the mask or, without one, of the image are repainted.",
    examples: { edit: { ...SAMPLE, image: PIXEL } },
    replies: MADE,
  },
  'POST /v1/images/variations': {
    ...{ ...openai, body: openaiEdit.partial({ prompt: true }) },
    summary: 'The same without a prompt',
    description: "OpenAI's route.",
    examples: { variation: { seed: 7, image: PIXEL } },
    replies: MADE,
  },
  'POST /v1/jobs': {
    ...{ ...images, isForm: true },
    summary: 'Create a job',
    headers: { ...HEADERS, ...WAIT },
    examples: { turbo: SAMPLE, previews: { ...SAMPLE, preview: true, max_cost: 0.01 } },
    replies: { 200: ENDED, 202: OPEN },
    links: JOB_LINKS,
  },
  'PUT /v1/jobs/:id': {
    ...{ ...images, isForm: true },
    summary: 'Create a job under a name of your choice',
    headers: WAIT,
    examples: { turbo: SAMPLE },
    replies: { 200: ENDED, 202: OPEN },
    links: JOB_LINKS,
  },
  'POST /v1/quote': {
    ...images,
    summary: 'Price, route and forecast of a request',
    examples: { turbo: SAMPLE },
    replies: { 200: { description: 'The quote', schema: replies.quote } },
  },
  'POST /v1/prewarm': {
    tag: 'Images',
    summary: 'Start the GPU ahead of a request, and open a model on it',
    query: prewarmQuery,
    replies: { 202: { description: 'The state of the GPU per offer', schema: replies.prewarmed } },
  },
  'GET /v1/models': {
    tag: 'Images',
    summary: 'Models with their routes, tiers and defaults',
    replies: { 200: { description: 'The models', schema: replies.models } },
  },
  'GET /v1/models/:id': {
    tag: 'Images',
    summary: 'A model, by its name or an alias',
    replies: { 200: { description: 'The model', schema: replies.model } },
  },
  'GET /v1/jobs': {
    tag: 'Jobs',
    summary: 'List jobs, newest first',
    query: page,
    replies: { 200: { description: 'A page of jobs', schema: replies.jobs } },
  },
  'GET /v1/jobs/:id': {
    tag: 'Jobs',
    summary: 'A job, by ID or name',
    headers: WAIT,
    replies: { 200: ENDED, 202: OPEN },
  },
  'GET /v1/jobs/:id/events': {
    tag: 'Jobs',
    summary: 'Follow a job by server-sent events',
    description: 'EventSource opens `events_url` of the job, which needs no header. Events are listed in docs/api.md.',
    headers: { 'Last-Event-ID': 'Continues after this event.' },
    replies: {
      200: {
        description: 'The events so far, then new ones until the job ends',
        content: { 'text/event-stream': { schema: EVENT, example: EVENTS } },
      },
      204: { description: 'There is no event after the given one' },
    },
  },
  'GET /v1/jobs/:id/receipts': {
    tag: 'Jobs',
    summary: 'A signed receipt per image',
    replies: { 200: { description: 'The receipts', schema: replies.receipts } },
  },
  'POST /v1/verify': {
    tag: 'Jobs',
    summary: 'Read the marks of an image file',
    description: 'For everyone, without a key. Nothing is stored. Signatures of content credentials are not checked.',
    body: z.string().describe('the bytes of a PNG, JPEG or WebP file'),
    bodyType: 'application/octet-stream',
    headers: { 'Octet-Receipt': 'The receipt of the file, to be checked as well.' },
    replies: { 200: { description: 'What the file states', schema: replies.verification } },
  },
  'DELETE /v1/jobs/:id': { tag: 'Jobs', summary: 'Cancel a job', replies: { 200: ENDED, 202: OPEN } },
  'POST /v1/jobs/:id/cancel': { tag: 'Jobs', summary: 'Cancel a job', replies: { 200: ENDED, 202: OPEN } },
  'DELETE /v1/jobs/:id/images': {
    tag: 'Jobs',
    summary: 'Delete all images of a finished job',
    replies: { 204: { description: 'They are deleted' } },
  },
  'GET /v1/results/:job/:file': {
    tag: 'Jobs',
    summary: 'An image file, also by signed link',
    headers: { Range: 'bytes=FIRST-LAST', 'If-None-Match': 'the ETag of a stored copy' },
    replies: {
      200: { description: 'The file', content: FILES, headers: ['etag', 'content-disposition', 'accept-ranges'] },
      206: { description: 'A part of the file', content: FILES, headers: ['content-range'] },
      304: { description: 'The stored copy is current' },
    },
  },
  'DELETE /v1/results/:job/:file': {
    tag: 'Jobs',
    summary: 'Delete an image',
    replies: { 204: { description: 'It is deleted' } },
  },
}
