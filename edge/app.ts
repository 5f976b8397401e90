import { Hono } from 'hono'
import { methodNotAllowed } from 'hono/method-not-allowed'
import { requestId } from 'hono/request-id'
import type { EdgeEnv } from './env.ts'
import { onError, onMethodNotAllowed, onNotFound } from './errors.ts'
import { health } from './routes/health.ts'
import { images } from './routes/images.ts'
import { jobs } from './routes/jobs.ts'
import { keys } from './routes/keys.ts'
import { models } from './routes/models.ts'
import { results } from './routes/results.ts'

export const app = new Hono<EdgeEnv>()

app.use(requestId())
app.use(methodNotAllowed({ app, onMethodNotAllowed }))

app.route('/healthz', health)
app.route('/v1/images', images)
app.route('/v1/jobs', jobs)
app.route('/v1/keys', keys)
app.route('/v1/models', models)
app.route('/v1/results', results)

app.onError(onError)
app.notFound(onNotFound)
