// A status overview of a deployment. Each part is requested independently, and one that fails shows its error.
import type { OperatorStatus } from '../../../edge/operations/replies.ts'
import type { DeployConfig } from '../../config.ts'
import type { CommandLine } from '../../deploy/plan.ts'
import type { ModalServer } from '../../modal/server.ts'

export type Sources = {
  config: DeployConfig
  exec: (command: CommandLine) => Promise<string>
  /** GET from the worker with the operator token; returns the parsed body. */
  worker: (path: string) => Promise<unknown>
  openModal: () => Promise<ModalServer>
  now?: Date
}

const formatSeconds = (value: number) => `${Math.round(value)} s`
const formatDollars = (value: number) => `$${value.toFixed(2)}`

/** A part of the overview, or the error of its request. */
async function formatPart(title: string, ask: () => Promise<string[]>): Promise<string[]> {
  const lines = await ask().catch((error: Error) => [`unknown: ${error.message.split('\n')[0]}`])
  return [title, ...lines.map((line) => `  ${line}`)]
}

async function readDeployment({ exec, config }: Sources): Promise<string[]> {
  const json = await exec(['wrangler', 'deployments', 'list', '--name', config.worker.name, '--json'])
  const list = JSON.parse(json) as { created_on: string; versions: { version_id: string }[] }[]
  const last = list.toSorted((a, b) => b.created_on.localeCompare(a.created_on))[0]
  return [last ? `version ${last.versions[0]?.version_id} since ${last.created_on}` : 'nothing is deployed']
}

async function readContainers({ openModal, now = new Date() }: Sources): Promise<string[]> {
  const server = await openModal()
  try {
    const midnight = new Date(`${now.toISOString().slice(0, 10)}T00:00:00Z`)
    const [current, today] = [await server.current(), await server.since(midnight)]
    return [
      `${current.containers} containers running, ${current.backlog} requests waiting`,
      `since midnight: ${today.started} containers started, ${today.broken} failed; ${today.requests} requests, ${today.failed} failed`,
    ]
  } finally {
    server.close()
  }
}

async function readBill({ exec, config }: Sources): Promise<string[]> {
  const json = await exec(['modal', 'billing', 'report', '--for', 'today', '--json'])
  const rows = JSON.parse(json) as Record<string, string | number>[]
  const ours = rows.filter((row) => Object.values(row).some((value) => value === config.gpu.app))
  const cost = ours.reduce((sum, row) => sum + Number(row.Cost ?? row.cost ?? 0), 0)
  return [`${formatDollars(cost)} for ${config.gpu.app} since midnight`]
}

function formatBudget({ daily_seconds, spent_seconds, reserved_seconds }: NonNullable<OperatorStatus['gpu_budget']>) {
  const [spent, daily] = [formatSeconds(spent_seconds), formatSeconds(daily_seconds)]
  return `GPU budget of today: ${spent} of ${daily} spent, ${formatSeconds(reserved_seconds)} reserved by running jobs`
}

async function readWorker({ worker: ask }: Sources): Promise<string[]> {
  const { endpoints, today, gpu_budget: budget } = (await ask('/v1/operator/status')) as OperatorStatus
  return [
    ...endpoints.map((each) => {
      const ready = each.state === 'warm' ? '' : `, ready in ${formatSeconds(each.ready_in_seconds)}`
      const spent = `warming ${formatSeconds(each.spent_today_seconds)} of ${formatSeconds(each.budget_seconds)} today`
      return `${each.name}: ${each.state}${ready}${each.down ? ', down' : ''}; a start takes ${formatSeconds(each.start_seconds)} (from ${each.starts_seen} starts); ${spent}`
    }),
    `since midnight: ${today.jobs} jobs settled, ${today.captured} of them charged ${formatDollars(today.microdollars / 1e6)}`,
    `${today.images} jobs measured, ${today.cold_starts} of them cold; GPU ${formatSeconds(today.gpu_seconds)}, about ${formatDollars(today.gpu_dollars)} without idle time`,
    ...(budget ? [formatBudget(budget)] : []),
  ]
}

/** The lines of the overview. `modal` is false if the GPU function runs elsewhere. */
export async function renderStatusScreen(sources: Sources, modal: boolean): Promise<string[]> {
  const parts = await Promise.all([
    formatPart(`Worker ${sources.config.worker.name}`, () => readDeployment(sources)),
    formatPart('GPUs, as seen by the worker', () => readWorker(sources)),
    ...(modal
      ? [
          formatPart(`Modal app ${sources.config.gpu.app}`, () => readContainers(sources)),
          formatPart("Modal's bill", () => readBill(sources)),
        ]
      : []),
  ])
  return parts.flat()
}
