// All representations of a job agree in their common fields.
import { env } from 'cloudflare:workers'
import { test } from 'vitest'
import type { DialectRoute } from '../../../edge/dialects/definition/dialect.ts'
import { openai } from '../../../edge/dialects/openai/openai.ts'
import { eventOf } from '../../../edge/jobs/announcement.ts'
import { projectJob, summaryOf } from '../../../edge/jobs/projection.ts'
import { listEntryOf, viewOf } from '../../../edge/requests/view.ts'
import { newCaller, ORIGIN } from '../support/client.ts'
import { createFinalJob } from '../support/jobs.ts'

test('the view, the list entry, the webhook and the OpenAI reply agree in fields and warnings', async ({ expect }) => {
  const base = createFinalJob(await newCaller())
  const job = {
    ...base,
    request: { ...base.request, negative_prompt: 'blurry' },
    warnings: [{ code: 'prompt_truncated', message: 'The prompt is longer than the model reads.' }],
  }
  const { images, ...facts } = projectJob(job)
  expect(facts.warnings.map(({ code }) => code)).toEqual(['negative_prompt_ignored', 'prompt_truncated'])
  const reader = { env, origin: ORIGIN, keyId: null }
  expect(await viewOf(reader, job)).toMatchObject(facts)
  expect(await listEntryOf(reader, summaryOf(job))).toMatchObject(facts)
  expect(JSON.parse(eventOf(job).body).data).toMatchObject({ ...facts, images: [{ key: images[0]!.key }] })
  const { id, route, tier, model, steps, guidance_scale, reason, warnings, timings, price_microdollars } = facts
  const rendered = { job: projectJob(job), progress: null, parameters: job.request, files: [{ url: null }] }
  const { render } = openai.routes[0] as Extract<DialectRoute, { action: 'submit' }>
  const request = { params: {}, query: {}, headers: new Headers(), body: {}, origin: ORIGIN }
  expect(render({ ...rendered, reused: false, origin: ORIGIN, eventsUrl: null }, request)).toMatchObject({
    json: {
      created: facts.created,
      size: facts.size,
      octet: { job: id, route, tier, model, steps, guidance_scale, reason, warnings, timings, price_microdollars },
    },
  })
})
