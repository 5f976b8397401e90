// A job as an OpenAI image reply, and as the events of an image stream.
import { hasT5 } from '#contract'
import type { JobStream, RenderedJob } from '../definition/dialect.ts'
import type { ImageFile, PublicJob } from '../definition/public-job.ts'

/** Pixels of an image token's side: patches of 2 of a latent with an eighth of the image's size. */
const TOKEN_SIDE = 16
/** The rows of the prompt embeddings: CLIP's, and T5's unless the request has a `max_sequence_length`. */
const CLIP_TOKENS = 77
const T5_TOKENS = 256

/** The tokens that the model reads and generates: rows of the prompt embeddings, and patches of all images. */
function countTokens({ job, parameters }: RenderedJob) {
  const { width, height, count, max_sequence_length = T5_TOKENS } = parameters
  const input = CLIP_TOKENS + (hasT5(job.tier) ? max_sequence_length : 0)
  const output = (width / TOKEN_SIDE) * (height / TOKEN_SIDE) * count
  return {
    ...{ input_tokens: input, output_tokens: output, total_tokens: input + output },
    input_tokens_details: { image_tokens: 0, text_tokens: input },
    output_tokens_details: { image_tokens: output, text_tokens: 0 },
  }
}

/** The warning for a request that joined the job of an equal one. */
export const JOINED = {
  code: 'request_joined',
  message:
    'An equal request of this key was running, so both have its images at one price. Send a seed or an Idempotency-Key for images of your own.',
}

/** Octet's own fields of the job. */
const renderFacts = ({ job, reused, joined }: RenderedJob) => ({
  job: job.id,
  ...{ route: job.route, tier: job.tier, model: job.model, steps: job.steps },
  ...{ guidance_scale: job.guidance_scale, reason: job.reason },
  attempts: job.attempt,
  timings: job.timings,
  warnings: [...job.warnings, ...(joined ? [JOINED] : [])],
  price_microdollars: reused ? 0 : job.price_microdollars,
  reused,
})

/** OpenAI's quality of a route. */
const qualityOf = ({ route }: Pick<PublicJob, 'route'>) => (route === 'full' ? 'high' : 'low')

/** An image of the reply: its file as `url`, `b64_json` or both, and its metadata. */
const renderImage = ({ seed, content_type, sha256 }: PublicJob['images'][number], file: ImageFile) => ({
  ...file,
  seed,
  content_type,
  sha256,
})

/** The reply in OpenAI's format, with additional fields under `octet`. */
export const renderReply = (rendered: RenderedJob) => {
  const { job, files } = rendered
  return {
    json: {
      created: job.created,
      data: job.images.map((image, k) => renderImage(image, files[k]!)),
      background: 'opaque',
      output_format: job.images[0]!.content_type.slice('image/'.length),
      quality: qualityOf(job),
      size: job.size,
      usage: countTokens(rendered),
      octet: renderFacts(rendered),
    },
  }
}

/** Previews and images as events. `image_index` distinguishes the images of a request with `n` above 1. */
export const streamOf = (kind: 'image_edit' | 'image_generation'): JobStream => ({
  preview: ({ job }, { image, content_type, b64_json }, index) => {
    const type = `${kind}.partial_image`
    const about = { created_at: job.created, size: job.size, quality: qualityOf(job), background: 'opaque' }
    const format = content_type.slice('image/'.length)
    return {
      event: type,
      data: { type, ...about, output_format: format, partial_image_index: index, image_index: image, b64_json },
    }
  },
  image: (rendered, k) => {
    const { job, files } = rendered
    const type = `${kind}.completed`
    const image = job.images[k]!
    const about = { created_at: job.created, size: job.size, quality: qualityOf(job), background: 'opaque' }
    const format = image.content_type.slice('image/'.length)
    const facts = { usage: countTokens(rendered), octet: renderFacts(rendered) }
    return {
      event: type,
      data: { type, ...about, output_format: format, image_index: k, ...facts, ...renderImage(image, files[k]!) },
    }
  },
})
