import { Hono } from 'hono'
import * as z from 'zod'
import { ACCOUNT_NAME } from '../auth/keys.ts'
import type { EdgeEnv } from '../http/context.ts'
import { ApiError } from '../http/errors.ts'
import { parseFields } from '../http/validation.ts'
import { JOB_ID } from '../jobs/job-id.ts'
import { reportOf } from '../operations/job-report.ts'
import { readOperatorStatus } from '../operations/status.ts'
import { resolveJobId } from '../requests/own-job.ts'

export const query = z.strictObject({
  account: z.string().regex(ACCOUNT_NAME).optional().describe('1 to 32 of a-z, 0-9 and "-", not at an end'),
})

export const operator = new Hono<EdgeEnv>()

/** The current status of the deployment. */
operator.get('/status', async (c) => c.json(await readOperatorStatus(c.env)))

/** The report of a job, for the operator, by job id or by the account's name for it. */
operator.get('/jobs/:id', async (c) => {
  const { account } = parseFields(query, query.shape, c.req.query())
  const given = c.req.param('id')
  if (!JOB_ID.test(given) && account === undefined)
    throw new ApiError('invalid_request', `${given} is not a job id; to look up a job by name, add account=….`, {
      param: 'account',
    })
  const id = JOB_ID.test(given) ? given : await resolveJobId(c.env, account!, given)
  const report = id && (await reportOf(c.env, id, account))
  if (!report) throw new ApiError('not_found', `There is no job ${given}${account ? ` of account ${account}` : ''}.`)
  return c.json(report)
})
