// The conditions of all runs of the denoiser for one request, computed when needed.
import { type ImageOptions, isGuided, type JobRequest, skipsLayers } from '../contract.ts'
import type { Manifest } from '../manifest.ts'
import { HostTensor } from '../runtime/session.ts'
import { settleAll } from '../runtime/settle-all.ts'
import {
  type Condition,
  type ConditionOptions,
  condition,
  conditionControl,
  createConditioningInputs,
  type Denoiser,
  releaseConditions,
} from './denoise.ts'
import type { PromptEmbeds } from './prompt/prompt.ts'

/** What a run evaluates. `plain`: the prompt. `guided`: also the negative prompt. `skipping`: also the prompt without some blocks. */
export type Mode = 'plain' | 'guided' | 'skipping'

/** Maximum number of runs per run of `conditioning`, which bounds the memory of the modulation. */
export const STEPS_AT_ONCE = 50

/** The mode of each run, by its step. */
export const modesOf = (
  request: Pick<JobRequest, 'steps' | 'guidance_scale'> & ImageOptions,
  steps: readonly number[],
) => steps.map((step): Mode => (skipsLayers(request, step) ? 'skipping' : isGuided(request, step) ? 'guided' : 'plain'))

type Runs = { timesteps: Float32Array; modes: readonly Mode[] }
type Compute = (timesteps: Float32Array, mode: Mode) => Promise<Condition[]>

/**
 * The conditions on the device, least recently used first. Conditions of another run replace those of a preempted run, which are computed
 * again when it continues: they take hundreds of megabytes, and their computation takes less time than a step.
 */
const onDevice = new Set<Conditions>()

/** The conditions of successive runs of one mode, at most `STEPS_AT_ONCE` at a time. Call `release` at the end. */
export class Conditions {
  readonly #compute: Compute
  readonly #runs: Runs
  readonly #max: number
  /** The runs [from, to) of the current conditions. */
  #from = 0
  #to = 0
  #current: Condition[] = []

  /** `max`: the maximum number of requests whose conditions may be on the device at a time. */
  constructor(runs: Runs, compute: Compute, max = 1) {
    this.#runs = runs
    this.#compute = compute
    this.#max = max
  }

  /** A run's conditions in the order in which `predictVelocity` takes them, and its row in their modulation. */
  async at(run: number): Promise<{ conditions: Condition[]; row: number }> {
    const { timesteps, modes } = this.#runs
    this.#claim()
    if (run < this.#from || run >= this.#to) {
      this.release()
      onDevice.add(this)
      const [from, to] = partOf(modes, run)
      this.#current = await this.#compute(timesteps.subarray(from, to), modes[run]!)
      ;[this.#from, this.#to] = [from, to]
    }
    return { conditions: this.#current, row: run - this.#from }
  }

  /** Makes room on the device for these conditions, the most recently used ones. */
  #claim(): void {
    onDevice.delete(this)
    for (const oldest of onDevice) if (onDevice.size >= this.#max) oldest.release()
    onDevice.add(this)
  }

  release(): void {
    onDevice.delete(this)
    releaseConditions(this.#current)
    this.#current = []
    this.#from = 0
    this.#to = 0
  }
}

/**
 * Batch [from, to) of runs for the computation of the conditions of `run`. Its bounds do not depend on the first run requested: a product with
 * another number of rows may round differently, and preemption must not change an image.
 */
function partOf(modes: readonly Mode[], run: number): [from: number, to: number] {
  let from = run
  while (from > 0 && modes[from - 1] === modes[run]) from--
  from += STEPS_AT_ONCE * Math.floor((run - from) / STEPS_AT_ONCE)
  let to = run + 1
  while (to < modes.length && to - from < STEPS_AT_ONCE && modes[to] === modes[run]) to++
  return [from, to]
}

/** The gates of the skipped blocks. Throws RangeError for a package without them; run-job.ts refuses such requests earlier. */
function findSkippedGates({ blocks }: Manifest, layers: readonly number[] | undefined): number[] {
  const skipped = layers ?? blocks?.skipped
  const gates = skipped?.flatMap((layer) => blocks?.gates[layer] ?? [])
  if (!gates || gates.length === 0) throw new RangeError('the package does not state the blocks to skip')
  return gates
}

/** The condition of one prompt without some blocks: their gates are zero, so that they add nothing. In JavaScript's memory. */
async function conditionWithoutBlocks(
  { conditioning, transformer }: Denoiser,
  prompt: PromptEmbeds,
  timesteps: Float32Array,
  { gates, width, control, signal }: ConditionOptions & { gates: readonly number[]; width: number },
): Promise<Condition> {
  const outputs = await conditioning.run(createConditioningInputs([prompt], timesteps), { signal })
  const [modulation, context] = [outputs.modulation!, outputs.context!]
  const size = modulation.dims.at(-1)!
  for (let step = 0; step < timesteps.length; step++)
    for (const gate of gates)
      (modulation.data as Float32Array).fill(0, step * size + gate * width, step * size + (gate + 1) * width)
  const own = control && { control: await conditionControl(control, [prompt], timesteps, signal) }
  return { transformer, batch: 1, modulation: new HostTensor(modulation), context: new HostTensor(context), ...own }
}

/**
 * The conditions of `prompts` with sample `i` on denoiser `i % n`, each in a batch of its own: the devices run concurrently, so that a batch
 * would gain nothing.
 */
async function spread(
  denoisers: readonly Denoiser[],
  prompts: PromptEmbeds[],
  timesteps: Float32Array,
  options: ConditionOptions,
): Promise<Condition[]> {
  const conditions: Condition[][] = []
  try {
    await settleAll(
      prompts.map(async (prompt, sample) => {
        conditions[sample] = await condition(denoiserOf(denoisers, sample), [prompt], timesteps, options)
      }),
    )
  } catch (error) {
    releaseConditions(conditions.flat())
    throw error
  }
  return conditions.flat()
}

const denoiserOf = (denoisers: readonly Denoiser[], sample: number): Denoiser => denoisers[sample % denoisers.length]!

/** Computes the conditions of `prompts`, [negative, positive] or one, for a mode. Several denoisers divide the samples. */
export const computeConditions =
  (
    denoisers: readonly [Denoiser, ...Denoiser[]],
    prompts: PromptEmbeds[],
    { manifest, layers, ...options }: ConditionOptions & { manifest: Manifest; layers?: readonly number[] | undefined },
  ): Compute =>
  async (timesteps, mode) => {
    const [first] = denoisers
    const positive = prompts.at(-1)!
    if (mode === 'plain') return condition(first, [positive], timesteps, options)
    const createGuided = () =>
      denoisers.length === 1
        ? condition(first, prompts, timesteps, options)
        : spread(denoisers, prompts, timesteps, options)
    if (mode === 'guided') return createGuided()
    // Before the other conditions, because this one is copied to the host.
    const gates = findSkippedGates(manifest, layers)
    const skipping = await conditionWithoutBlocks(denoiserOf(denoisers, prompts.length), positive, timesteps, {
      ...options,
      gates,
      width: manifest.position.width,
    })
    try {
      return [...(await createGuided()), skipping]
    } catch (error) {
      releaseConditions([skipping])
      throw error
    }
  }
