// Metrics in Prometheus' format. Labels have few values: tenants, prompts and exact sizes are not among them.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { countControls, type JobRequest, samplesOf } from '../../contract.ts'
import { computeWaitedMs, isInteractive, outcomeOf } from '../job.ts'
import type { Jobs, Lifecycle } from '../jobs.ts'
import type { Observer } from '../observer.ts'

const STEP_SECONDS = [0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30]
const STEP_JOBS = [1, 2, 3, 4, 8]
const JOB_SECONDS = [0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300]
/** Upper limits of the size classes in megapixels. */
const SIZES = [0.3, 0.6, 1.1, 2.2]

const classOf = (interactive: boolean) => (interactive ? 'interactive' : 'standard')

function sizeOf({ width, height }: JobRequest): string {
  const megapixels = (width * height) / 1e6
  const limit = SIZES.find((each) => megapixels <= each)
  return limit === undefined ? `over ${SIZES.at(-1)} MP` : `${limit} MP`
}

export type Metrics = Observer & {
  /** The metrics as text, and its media type. */
  text(): Promise<{ body: string; contentType: string }>
  /** Adds gauges of the process: the number of its jobs by state, and its own state. */
  watch(jobs: Jobs, lifecycle: Lifecycle): void
  /** The process became ready `seconds` after its start. */
  ready(seconds: number): void
}

/** The metrics of one process. */
export function createMetrics(): Metrics {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  const model = ['model', 'tier'] as const
  const jobs = new Counter({
    ...{ name: 'octet_jobs_total', help: 'Ended jobs by outcome.', registers },
    labelNames: [...model, 'class', 'outcome'] as const,
  })
  const wait = new Histogram({
    ...{ name: 'octet_wait_seconds', help: 'Time that jobs waited for the device, including preemption.', registers },
    ...{ labelNames: ['class'] as const, buckets: JOB_SECONDS },
  })
  const duration = new Histogram({
    ...{ name: 'octet_job_seconds', help: 'Time from acceptance to end of succeeded jobs.', registers },
    ...{ labelNames: ['class'] as const, buckets: JOB_SECONDS },
  })
  const turns = new Histogram({
    ...{
      name: 'octet_phase_seconds',
      help:
        'Duration of phases by image size. samples: batch size of the denoiser run, across jobs. ' +
        'controls: number of ControlNets of the step, or of the job in other phases.',
      registers,
    },
    ...{ labelNames: [...model, 'phase', 'size', 'samples', 'controls'] as const, buckets: STEP_SECONDS },
  })
  const sharing = new Histogram({
    ...{ name: 'octet_step_jobs', help: 'Jobs in one run of the denoiser, for each step of each job.', registers },
    ...{ labelNames: model, buckets: STEP_JOBS },
  })
  const busy = new Counter({
    name: 'octet_device_seconds_total',
    help: 'Time that a job used the device.',
    registers,
  })
  const loads = new Counter({
    ...{ name: 'octet_model_loads_total', help: 'Models opened.', labelNames: model, registers },
  })
  const evictions = new Counter({
    ...{ name: 'octet_model_evictions_total', help: 'Models closed to make room.', registers, labelNames: ['model'] },
  })
  const memory = new Gauge({
    ...{ name: 'octet_model_memory_bytes', help: 'Planned memory of the open models.', registers },
  })
  const refusals = new Counter({
    ...{ name: 'octet_refusals_total', help: 'Refused requests by code.', labelNames: ['code'] as const, registers },
  })
  const start = new Gauge({ name: 'octet_start_seconds', help: 'Time from the start to readiness.', registers })
  return {
    turn({ request, parallel }, { phase, load, step }, seconds, size) {
      const { model, tier } = request
      if (phase !== 'file') busy.inc(seconds / size)
      if (phase === 'step') sharing.observe({ model, tier }, size)
      if (load && load.seconds > 0) loads.inc({ model, tier })
      for (const closed of load?.closed ?? []) evictions.inc({ model: closed })
      if (load?.bytes !== undefined) memory.set(load.bytes)
      const samples = step === undefined || parallel ? 1 : samplesOf(request, step) * size
      const controls = step === undefined ? (request.controls?.length ?? 0) : countControls(request, step)
      const labels = { model, tier, phase, size: sizeOf(request), samples, controls }
      if (phase !== 'load' || (load && load.seconds > 0)) turns.observe(labels, seconds)
    },
    end(job) {
      const { model, tier } = job.request
      const kind = classOf(isInteractive(job.request))
      const end = outcomeOf(job)!
      const result = end.type === 'failed' ? end.code : end.type
      jobs.inc({ model: chooseModelLabel(end, model), tier, class: kind, outcome: result })
      wait.observe({ class: kind }, computeWaitedMs(job) / 1000)
      if (end.type === 'succeeded') duration.observe({ class: kind }, end.timings.total)
    },
    refused: (code) => refusals.inc({ code }),
    ready: (seconds) => start.set(seconds),
    watch(registered, lifecycle) {
      new Gauge({
        ...{ name: 'octet_queue_jobs', help: 'Unfinished jobs by class and state.', registers },
        labelNames: ['class', 'state'] as const,
        collect() {
          for (const { interactive, started, count } of registered.countByClass())
            this.set({ class: classOf(interactive), state: started ? 'started' : 'waiting' }, count)
        },
      })
      new Gauge({
        ...{ name: 'octet_ready', help: '1 if the process accepts jobs.', registers },
        collect() {
          this.set(lifecycle.status === 'ready' ? 1 : 0)
        },
      })
    },
    text: async () => ({ body: await registry.metrics(), contentType: registry.contentType }),
  }
}

/** The model's name, unless the job failed because no model has it: labels must not come from requests. */
const chooseModelLabel = (end: NonNullable<ReturnType<typeof outcomeOf>>, model: string) =>
  end.type === 'failed' && end.code === 'model_not_available' ? 'unknown' : model
