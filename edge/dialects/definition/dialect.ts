// The interface of a dialect: another provider's API for the same jobs. A dialect is pure: it translates requests, replies and errors.
// Credentials, limits, billing, idempotency, jobs and webhooks are the same for all dialects.
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { KeyPlace } from '../../auth/key-place.ts'
import type { ErrorReply, Problem } from '../../http/errors.ts'
import type { WantedSize, Warning } from '../../routing/decision.ts'
import type { ImageFile, JobEvent, ListedJob, Parameters, Progress, PublicJob, WebhookEventKind } from './public-job.ts'

/** A request in the form that dialects parse. */
export type DialectRequest = {
  /** Parameters of the route's path. */
  params: Readonly<Record<string, string>>
  query: Readonly<Record<string, string>>
  headers: Headers
  /** The fields of the JSON object that are not null, or the parts of the form that are not empty. Files are of class File. */
  body: Record<string, unknown>
  /** The worker's address. */
  origin: string
}

/** The native request for a request of the dialect. */
export type Translation = {
  /** Fields of requests/generation-request.ts, which are validated afterward. `response_format: 'b64_json'` gives `render` the files as base64. */
  fields: Record<string, unknown>
  /**
   * The longest wait for the job's end in seconds, at most 60. `end` has no limit, and a job that does not succeed is an error. `stream`
   * replies with the events of the route's `stream`, and `events` with those of `renderEvent`.
   */
  wait: 'end' | 'events' | 'stream' | number
  /** A size or shape in place of the native fields. The nearest size of the offer serves it, with a warning if it differs. */
  wantedSize?: WantedSize
  /** Adjustments of the request, which become the first warnings of the job. */
  warnings?: readonly Warning[]
  /** Whether the model that the key has chosen is the default of the field `model`; see the action `choose`. */
  usesChoice?: boolean
  /** The sent names of renamed fields by native name. Errors have the sent names. */
  names?: Readonly<Record<string, string>>
  /** Whether fields that are not native have no effect, with a warning; otherwise they are errors. */
  ignoresUnknown?: boolean
  /** The kinds of events to send to the field `webhook`; absent: only the job's end. */
  webhookEvents?: readonly WebhookEventKind[]
  /** `both`: files as links, and as base64 too unless they are too large. */
  files?: 'both'
}

/** A job to render. */
export type RenderedJob = {
  job: PublicJob
  progress: Progress
  /** The request to the GPU function, such as prompt and seed. */
  parameters: Parameters
  /** In the order of the job's images. */
  files: readonly ImageFile[]
  /** Whether the reply reuses an earlier job, free of charge. */
  reused: boolean
  /** Whether the request joined the running job of an equal request without an Idempotency-Key. */
  joined?: boolean
  /** The worker's address, for links to other routes. */
  origin: string
  /** A signed link to the job's events, for readers without a key; null if the dialect has no `follow` route. */
  eventsUrl: string | null
}

/** An event of `GET /v1/jobs/{id}/events`: its type, and its other fields. */
export type StreamedEvent = { type: string } & Readonly<Record<string, unknown>>
/** Server-sent events without their ids. `data` is one line. */
export type ServerSentEvent = { event?: string; data: string }
/** `rendered` is the job as of its end for the types `succeeded`, `failed` and `canceled`, and as of the stream's start for the others. */
export type RenderEvent = (
  event: StreamedEvent,
  rendered: RenderedJob,
  request: DialectRequest,
) => readonly ServerSentEvent[]

type Head = { status?: ContentfulStatusCode; headers?: Record<string, string> }
/** A reply of JSON. The status is 200 by default. */
export type JsonReply = Head & { json: unknown }
/** A reply of the bytes of the job's image with this index. */
export type ImageReply = Head & { image: number }
export type Reply = JsonReply | ImageReply

/** A server-sent event. `data` is sent as JSON. */
export type StreamEvent = { event: string; data: object }
/** A preview of an image after a step. */
export type Preview = { image: number; step: number; content_type: string; b64_json: string }

/** The events of a job for a reader. A failure is an event `error` with the `error` member of the problem document. */
export type JobStream = {
  /** `index` counts the previews of the image. `files` of the job is empty. */
  preview(rendered: RenderedJob, preview: Preview, index: number): StreamEvent
  /** The event of the finished image `k`. Its file is base64. */
  image(rendered: RenderedJob, k: number): StreamEvent
}

/** The names of the deployment's models, the IDs of the account's adapters, and the model that the key has chosen. */
export type Facts = { models: readonly string[]; loras: readonly string[]; account: string; chosen: string | null }
/** The newest open job of an account. */
export type OpenJob = { progress: Progress; parameters: Parameters }

type RenderJob = (rendered: RenderedJob, request: DialectRequest) => Reply

/** `:id` in the path of `read`, `cancel` and `follow` is the id of the job. */
export type DialectRoute = {
  method: 'DELETE' | 'GET' | 'POST' | 'PUT'
  /** A path of Hono, such as `/v1/predictions/:id`. */
  path: string
} & (
  | {
      action: 'submit'
      accepts: 'form' | 'json'
      /** The methods of a path that matches `path` but belongs to another route; null for a path of this route. */
      methodsOf?(path: string): readonly string[] | null
      parse(request: DialectRequest): Translation
      render: RenderJob
      /** Required for `wait: 'events'`. */
      renderEvent?: RenderEvent
      /** Whether a long wait sends spaces ahead of a JSON reply; see http/heartbeat.ts. The reply then has no status and headers of its own. */
      hasHeartbeat?: boolean
      /** For `wait: 'stream'`. */
      stream?: JobStream
    }
  /** The events of a job, from the start or after `Last-Event-ID`, by key or by `eventsUrl`. */
  | { action: 'follow'; renderEvent: RenderEvent }
  | { action: 'cancel'; render: RenderJob }
  | { action: 'read'; render: RenderJob }
  | {
      action: 'list'
      /** Whether `render` needs the newest open job. */
      showsOpen?: boolean
      /** The fields `limit` and `after` of the native list, which are validated afterward. */
      parse(request: DialectRequest): Record<string, unknown>
      /** `next` is the `after` of the next page; null on the last one. */
      render(jobs: readonly ListedJob[], next: string | null, request: DialectRequest, open: OpenJob | null): JsonReply
    }
  /** Cancels the open jobs that the key created through this dialect. */
  | { action: 'interrupt'; render(): JsonReply }
  /** Stores the model for the key's requests without the field `model`. `parse` returns its name, or undefined for no change. */
  | { action: 'choose'; accepts: 'json'; parse(request: DialectRequest): string | undefined; render(): JsonReply }
  /** Facts about the deployment. */
  | {
      action: 'describe'
      accepts?: 'form' | 'json'
      /** Whether `render` needs the chosen model. */
      showsChoice?: boolean
      render(facts: Facts, request: DialectRequest): JsonReply
    }
)

export type Dialect = {
  /** Stored in the dialect's jobs. */
  name: string
  routes: readonly DialectRoute[]
  /** Where callers send their key, in order of precedence. By default `Authorization: Bearer`. */
  keyPlaces?: readonly KeyPlace[]
  /** The pages that may call the routes from a browser, and the response headers that their scripts may read. By default as the native API. */
  cors?: { origins: '*' | string[]; exposedHeaders: string[] }
  /** The reply of an error; by default the native problem document. */
  error?(problem: Problem): ErrorReply
  /** The payload of a webhook; by default the native event. */
  webhook?(event: JobEvent, origin: string): object
}
