// How a deployment stands, on one screen: each part is asked by itself, and one that does not answer is told as such.
import type { OperatorStatus } from '../../../edge/operations/replies.ts'
import type { DeployConfig } from '../../config.ts'
import type { CommandLine } from '../../deploy/plan.ts'
import type { ModalServer } from '../../modal/server.ts'

export type Asked = {
  config: DeployConfig
  exec: (command: CommandLine) => Promise<string>
  /** GET of the worker as the operator, parsed. */
  worker: (path: string) => Promise<unknown>
  openModal: () => Promise<ModalServer>
  now?: Date
}

const seconds = (value: number) => `${Math.round(value)} s`
const dollars = (value: number) => `$${value.toFixed(2)}`

/** A part of the screen; what keeps it from being known stands in its place. */
async function part(title: string, ask: () => Promise<string[]>): Promise<string[]> {
  const lines = await ask().catch((error: Error) => [`not known: ${error.message.split('\n')[0]}`])
  return [title, ...lines.map((line) => `  ${line}`)]
}

async function deployed({ exec, config }: Asked): Promise<string[]> {
  const json = await exec(['wrangler', 'deployments', 'list', '--name', config.worker.name, '--json'])
  const list = JSON.parse(json) as { created_on: string; versions: { version_id: string }[] }[]
  const last = list.toSorted((a, b) => b.created_on.localeCompare(a.created_on))[0]
  return [last ? `version ${last.versions[0]?.version_id} since ${last.created_on}` : 'nothing is deployed']
}

async function containers({ openModal, now = new Date() }: Asked): Promise<string[]> {
  const server = await openModal()
  try {
    const midnight = new Date(`${now.toISOString().slice(0, 10)}T00:00:00Z`)
    const [current, today] = [await server.current(), await server.since(midnight)]
    return [
      `${current.containers} containers run, ${current.backlog} requests wait`,
      `since midnight ${today.started} were started, ${today.broken} failed; ${today.requests} requests, ${today.failed} of them failed`,
    ]
  } finally {
    server.close()
  }
}

async function bill({ exec, config }: Asked): Promise<string[]> {
  const json = await exec(['modal', 'billing', 'report', '--for', 'today', '--json'])
  const rows = JSON.parse(json) as Record<string, string | number>[]
  const ours = rows.filter((row) => Object.values(row).some((value) => value === config.gpu.app))
  const cost = ours.reduce((sum, row) => sum + Number(row.Cost ?? row.cost ?? 0), 0)
  return [`${dollars(cost)} for ${config.gpu.app} since midnight`]
}

async function worker({ worker: ask }: Asked): Promise<string[]> {
  const { endpoints, today } = (await ask('/v1/operator/status')) as OperatorStatus
  return [
    ...endpoints.map((each) => {
      const ready = each.state === 'warm' ? '' : `, ready in ${seconds(each.ready_in_seconds)}`
      const spent = `warming ${seconds(each.spent_today_seconds)} of ${seconds(each.budget_seconds)} today`
      return `${each.name}: ${each.state}${ready}${each.down ? ', did not answer lately' : ''}; a start takes ${seconds(each.start_seconds)} (${each.starts_seen} seen); ${spent}`
    }),
    `since midnight: ${today.jobs} jobs settled, ${today.captured} of them charged ${dollars(today.microdollars / 1e6)}`,
    `${today.images} jobs measured, ${today.cold_starts} of them cold; GPU ${seconds(today.gpu_seconds)}, about ${dollars(today.gpu_dollars)} without idle time`,
  ]
}

/** The screen, line by line. `modal` is false where the GPU function runs elsewhere. */
export async function statusScreen(asked: Asked, modal: boolean): Promise<string[]> {
  const parts = await Promise.all([
    part(`Worker ${asked.config.worker.name}`, () => deployed(asked)),
    part('GPUs, as the worker sees them', () => worker(asked)),
    ...(modal
      ? [part(`Modal app ${asked.config.gpu.app}`, () => containers(asked)), part("Modal's bill", () => bill(asked))]
      : []),
  ])
  return parts.flat()
}
