// Runs a trace in real time on the engine of the GPU function: its scheduler, and first come, first served.
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import { type JobRequest, PROTOCOL_VERSION } from '../../../gpu-fn/contract.ts'
import { type Model, PackageEngine } from '../../../gpu-fn/engine/engine.ts'
import { outcome, waitForChange } from '../../../gpu-fn/server/job.ts'
import { Jobs } from '../../../gpu-fn/server/jobs.ts'
import { Refusal } from '../../../gpu-fn/server/requests/refusal.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'
import type { Outcome, Refusal as Refused, Served } from './simulate.ts'
import type { Arrival, CostTable, JobClass } from './trace.ts'

/** The parameters of the jobs of each class, by model:tier. */
export type Recipe = Record<JobClass, { model: string; steps: number; guidanceScale: number }>
export type RealOptions = { packages: string; cache: string; size: number; recipe: Recipe; aging: number }

const WAIT_MS = 60_000
const MEASURED = 5
/** With equal terms, all jobs run in order of arrival. */
const IN_ORDER = { tenant: 'all', weight: 1, interactive: false }

export async function openEngine({ packages, cache }: RealOptions): Promise<PackageEngine> {
  const log = pino({ level: 'warn' }, pino.destination(2))
  const limits = { memoryBytes: Number.MAX_SAFE_INTEGER, stallSeconds: 600, promptCacheBytes: 0 }
  const onStall = () => process.exit(1)
  const engine = new PackageEngine({
    ...limits,
    packages,
    log,
    onStall,
    verifier: new Verifier({ directory: cache, log }),
  })
  await engine.start()
  return engine
}

function requestOf({ account, kind, id }: Arrival, { recipe, size }: RealOptions, isFair: boolean): JobRequest {
  const { model, steps, guidanceScale } = recipe[kind]
  const [name, tier] = model.split(':') as [string, JobRequest['tier']]
  const shape = { width: size, height: size, steps, guidance_scale: guidanceScale, count: 1, seed: 7 }
  const text = { prompt: `a cat, ${id}`, negative_prompt: '', text_convention: 'diffusers' } as const
  const file = { output_format: 'png', output_quality: 90 } as const
  const schedule = isFair ? { tenant: account, weight: 1, interactive: kind === 'turbo' } : IN_ORDER
  return { protocol: PROTOCOL_VERSION, attempt: 1, model: name, tier, ...shape, ...text, ...file, schedule }
}

/** Runs the trace once. Refused jobs return after their Retry-After. */
export async function runTrace(
  engine: PackageEngine,
  trace: readonly Arrival[],
  options: RealOptions,
  isFair: boolean,
): Promise<Outcome> {
  const limits = { queue: 10_000, retainSeconds: 0, retainBytes: 0, unreadSeconds: 86_400 }
  const agingSeconds = isFair ? options.aging : 86_400
  const jobs = new Jobs({
    ...{ engine, lifecycle: { status: 'ready' }, log: pino({ level: 'silent' }), agingSeconds, ...limits },
    onBroken: () => process.exit(1),
  })
  const start = performance.now()
  const now = () => performance.now() - start
  const served: Served[] = []
  const refusals: Refused[] = []
  const run = async (arrival: Arrival) => {
    await sleep(Math.max(0, arrival.at - now()))
    let first: { at: number; promised: number; returns: number } | undefined
    for (;;) {
      const at = now()
      try {
        const job = jobs.submit(arrival.id, requestOf(arrival, options, isFair))
        if (first) refusals.push({ promised: first.promised, actual: at - first.at, returns: first.returns })
        while (!outcome(job)) await waitForChange(job, WAIT_MS)
        if (outcome(job)!.type !== 'succeeded') throw new Error(JSON.stringify(outcome(job)))
        served.push({ account: arrival.account, kind: arrival.kind, submitted: arrival.at, accepted: at, ended: now() })
        return
      } catch (error) {
        if (!(error instanceof Refusal) || error.retryAfter === undefined) throw error
        const promised = error.retryAfter * 1000
        first = first ? { ...first, returns: first.returns + 1 } : { at, promised, returns: 1 }
        await sleep(promised)
      }
    }
  }
  await Promise.all(trace.map(run))
  return { served, refusals, endMs: now(), busyMs: 0 }
}

/** Loads the models, and measures each class alone: milliseconds of whole jobs, as the cost of one step. */
export async function measureCosts(engine: PackageEngine, options: RealOptions): Promise<CostTable> {
  const costs: Partial<CostTable> = {}
  for (const kind of ['turbo', 'full'] as const) {
    const model = modelOf(engine, options.recipe[kind].model)
    await engine.load(model)
    await engine.warm(model, [{ width: options.size, height: options.size }])
    const alone = Array.from({ length: MEASURED }, (_, i) => ({ id: `${kind}-${i}`, account: 'one', kind, at: 0 }))
    const { endMs } = await runTrace(engine, alone, options, false)
    costs[kind] = { encode: 0, step: endMs / MEASURED, decode: 0, file: 0, steps: 1 }
  }
  return costs as CostTable
}

function modelOf({ models }: PackageEngine, name: string): Model {
  const found = models.find(({ model, tier }) => `${model}:${tier}` === name)
  if (found) return found
  throw new Error(
    `${name} is not among the packages: ${models.map(({ model, tier }) => `${model}:${tier}`).join(', ')}`,
  )
}
