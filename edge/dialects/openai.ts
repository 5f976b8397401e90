// OpenAI's image API: POST /v1/images/generations. platform.openai.com/docs/api-reference/images
import type { Dialect } from './dialect.ts'
import type { ImageFile, PublicJob } from './public-job.ts'

/** An image of the reply: its file as `url` or `b64_json`, and its metadata. */
const renderImage = ({ seed, content_type, sha256 }: PublicJob['images'][number], file: ImageFile) => ({
  ...file,
  seed,
  content_type,
  sha256,
})

/** The reply in OpenAI's format, with additional fields under `octet`. Errors have OpenAI's `error` member in the native format already. */
export const openai: Dialect = {
  name: 'openai',
  routes: [
    {
      method: 'POST',
      path: '/v1/images/generations',
      action: 'submit',
      accepts: 'json',
      // The native fields have OpenAI's names.
      parse: ({ body }) => ({ fields: body, wait: 'end' }),
      render: ({ job, files, reused }) => ({
        json: {
          created: job.created,
          data: job.images.map((image, k) => renderImage(image, files[k]!)),
          output_format: job.images[0]!.content_type.slice('image/'.length),
          size: job.size,
          octet: {
            job: job.id,
            ...{ route: job.route, tier: job.tier, model: job.model, steps: job.steps },
            ...{ guidance_scale: job.guidance_scale, reason: job.reason },
            attempts: job.attempt,
            timings: job.timings,
            warnings: job.warnings,
            price_microdollars: reused ? 0 : job.price_microdollars,
            reused,
          },
        },
      }),
    },
  ],
}
