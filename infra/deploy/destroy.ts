// `npm run deploy -- destroy`: removes a deployment, and its data only on request.
import { CommandFailed, GONE, type Step, type World } from './plan.ts'

const createStep = (id: string, what: string, commands: Step['commands'], otherwise: string): Step => ({
  ...{ id, what, commands, otherwise },
  async run({ config, state, exec }: World) {
    for (const { command } of commands(config, state)) {
      await exec(command).catch((error: unknown) => {
        if (!(error instanceof CommandFailed) || !GONE.test(error.message)) throw error
      })
    }
  },
})

const worker = createStep(
  'worker',
  'The worker, its Durable Objects (keys, balances, jobs) and its secrets',
  ({ worker: { name } }) => [{ command: ['wrangler', 'delete', '--name', name, '--force'] }],
  'Nothing else has changed. Try the dashboard: Workers, Settings, Delete.',
)
const gpu = createStep(
  'gpu-function',
  'The GPU function, with its containers, and its secret',
  ({ gpu: { app, secret } }) => [
    { command: ['modal', 'app', 'stop', app, '--yes'] },
    { command: ['modal', 'secret', 'delete', secret, '--allow-missing', '--yes'] },
  ],
  'See `modal app list`.',
)
const queue = createStep(
  'queue',
  'The usage queue',
  ({ worker: { queue: name } }) => [{ command: ['wrangler', 'queues', 'delete', name] }],
  'A queue can be deleted once no worker uses it: run this again.',
)
const database = createStep(
  'database',
  'The database: usage and forecasts of all accounts',
  ({ worker: { database: name } }) => [{ command: ['wrangler', 'd1', 'delete', name, '--skip-confirmation'] }],
  'This database still exists. Deletion cannot be undone.',
)
const bucket = createStep(
  'bucket',
  'The bucket of results, which must be empty',
  ({ worker: { results } }) => [{ command: ['wrangler', 'r2', 'bucket', 'delete', results] }],
  'Empty it first: in the dashboard, or with any S3 client.',
)
const volume = createStep(
  'volume',
  'The volume of packages',
  ({ gpu: { volume: name } }) => [{ command: ['modal', 'volume', 'delete', name, '--allow-missing', '--yes'] }],
  'See `modal volume list`.',
)

/** The steps of the removal: the worker first, data last. */
export function destroySteps({ data, onModal }: { data: boolean; onModal: boolean }): Step[] {
  return [worker, ...(onModal ? [gpu] : []), queue, ...(data ? [database, bucket, ...(onModal ? [volume] : [])] : [])]
}
