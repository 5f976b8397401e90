// Runs the step graph once for several jobs whose steps are requested together.
import type { PipelineEvent } from '../pipeline/events.ts'
import { concatenate, type DeviceTensor, isOnHost, type Session, type Tensor } from '../runtime/session.ts'

/** The steps that are requested together: `size` jobs of the same number. */
export type StepBatch = { readonly number: number; readonly size: number }

type Inputs = Parameters<Session['run']>[0]
type Options = Parameters<Session['run']>[1]
type Outputs = Record<string, Tensor>
type Call = { session: Session; inputs: Inputs; options: Options } & PromiseWithResolvers<Outputs>
/** `joined`: all jobs that have arrived. `active`: those whose step has not ended. `calls`: those that wait for the run. */
type Group = { number: number; size: number; joined: Set<number>; active: Set<number>; calls: Map<number, Call> }

/** The input that all samples of one size share. */
const SHARED = 'position'

/**
 * Jobs are identified by number. The runs of a batch start once each of its jobs waits for one or has ended its step. Runs never overlap,
 * because all sessions of a device share one arena.
 */
export class StepBatches {
  readonly #groups = new Map<number, Group>()
  readonly #groupOf = new Map<number, Group>()
  #last: Promise<unknown> = Promise.resolve()

  /** Adds the job's next step to the batch. Has no effect for a job that has joined already, such as one that reused a step. */
  join(job: number, { number, size }: StepBatch): void {
    if (this.#groupOf.get(job)?.number === number) return
    const group = this.#groups.get(number) ?? { number, size, joined: new Set(), active: new Set(), calls: new Map() }
    this.#groups.set(number, group)
    this.#groupOf.set(job, group)
    group.joined.add(job)
    group.active.add(job)
    if (group.joined.size === size) this.#groups.delete(number)
    this.#runIfComplete(group)
  }

  /** Removes the job from its batch after its step has ended or failed. */
  leave(job: number): void {
    const group = this.#groupOf.get(job)
    if (!group) return
    this.#groupOf.delete(job)
    group.active.delete(job)
    this.#runIfComplete(group)
  }

  /** The step graph for one job, whose runs are part of those of its batch. */
  session(job: number, session: Session): Session {
    return {
      run: (inputs, options) => {
        const group = this.#groupOf.get(job)
        if (!group) return this.#serialize(() => session.run(inputs, options))
        const call: Call = { session, inputs, options, ...Promise.withResolvers<Outputs>() }
        group.calls.set(job, call)
        this.#runIfComplete(group)
        return call.promise
      },
      runOnDevice: session.runOnDevice,
      release: session.release,
    }
  }

  /** A session whose runs do not overlap with others. */
  serialized(session: Session): Session {
    return {
      run: (...given) => this.#serialize(() => session.run(...given)),
      runOnDevice: (...given) => this.#serialize(() => session.runOnDevice(...given)),
      release: session.release,
    }
  }

  #serialize<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#last.then(action)
    this.#last = result.catch(() => {})
    return result
  }

  #runIfComplete({ size, joined, active, calls }: Group): void {
    if (joined.size < size || calls.size < active.size || calls.size === 0) return
    const waiting = Object.values(Object.groupBy(calls.values(), shapeOf)) as Call[][]
    calls.clear()
    void this.#serialize(async () => {
      for (const alike of waiting) await runTogether(alike)
    })
  }
}

/** Whether a job has ended its part in a batch with this event. After a reused step, it computes another one in the same turn. */
export const endsStep = (event: PipelineEvent): boolean =>
  event.type !== 'preview' && event.type !== 'warning' && !(event.type === 'step' && event.reused)

/** The shape of one sample's inputs; equal ones fit into one run. */
const shapeOf = ({ inputs }: Call): string =>
  JSON.stringify(Object.entries(inputs).map(([name, { dims }]) => [name, name === SHARED ? dims : dims.slice(1)]))

/** Runs the graph once for all calls. If that fails, each runs alone, which needs less memory and separates their errors. */
async function runTogether(calls: readonly Call[]): Promise<void> {
  if (calls.length > 1) {
    try {
      const outputs = await runJoined(calls)
      for (const [i, call] of calls.entries()) call.resolve(outputs[i]!)
      return
    } catch {
      // Each call reports its own error below.
    }
  }
  for (const call of calls)
    await call.session.run(call.inputs, call.options).then(call.resolve, (error: unknown) => call.reject(error))
}

/** The outputs of each call. */
async function runJoined(calls: readonly Call[]): Promise<Outputs[]> {
  const [{ session, inputs, options }] = calls as [Call, ...Call[]]
  const counts = calls.map((call) => call.inputs.latent!.dims[0]!)
  const joined: DeviceTensor[] = []
  try {
    const all: Inputs = {}
    for (const [name, tensor] of Object.entries(inputs)) {
      const tensors = calls.map((call) => call.inputs[name]!)
      if (name === SHARED) all[name] = tensor
      else if (tensors.every(isOnHost)) all[name] = concatenate(tensors)
      else {
        const [one, ...others] = tensors as [DeviceTensor, ...DeviceTensor[]]
        const device = await one.join(others)
        joined.push(device)
        all[name] = device
      }
    }
    const only = options?.only
    const outputs = Object.entries(await session.run(all, only && { only }))
    return counts.map((count, i) => {
      const start = counts.slice(0, i).reduce((sum, each) => sum + each, 0)
      return Object.fromEntries(outputs.map(([name, tensor]) => [name, rowsOf(tensor, start, count)]))
    })
  } finally {
    for (const tensor of joined) tensor.release()
  }
}

function rowsOf({ data, dims }: Tensor, start: number, count: number): Tensor {
  const size = data.length / dims[0]!
  return {
    data: data.subarray(start * size, (start + count) * size) as Tensor['data'],
    dims: [count, ...dims.slice(1)],
  }
}
