// The conditions of all runs of the denoiser for one request, computed when needed.
import { type ImageOptions, isGuided, type JobRequest, skipsLayers } from '../contract.ts'
import type { Manifest } from '../manifest.ts'
import { HostTensor, type Session } from '../runtime/session.ts'
import {
  type Condition,
  type ConditionOptions,
  condition,
  conditionControl,
  conditioningInputs,
  releaseConditions,
} from './denoise.ts'
import type { PromptEmbeds } from './prompt.ts'

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
 * The conditions on the device. Conditions of another run replace those of an interrupted run, which are computed again when it continues:
 * they take hundreds of megabytes, and their computation takes less time than a step.
 */
let onDevice: Conditions | undefined

/** The conditions of successive runs of one mode, at most `STEPS_AT_ONCE` at a time. Call `release` at the end. */
export class Conditions {
  readonly #compute: Compute
  readonly #runs: Runs
  /** The runs [from, to) of the current conditions. */
  #from = 0
  #to = 0
  #current: Condition[] = []

  constructor(runs: Runs, compute: Compute) {
    this.#runs = runs
    this.#compute = compute
  }

  /** A run's conditions in the order in which `predictVelocity` takes them, and its row in their modulation. */
  async at(run: number): Promise<{ conditions: Condition[]; row: number }> {
    const { timesteps, modes } = this.#runs
    const mode = modes[run]!
    if (onDevice !== this) onDevice?.release()
    onDevice = this
    if (run < this.#from || run >= this.#to) {
      this.release()
      onDevice = this
      let to = run + 1
      while (to < modes.length && to - run < STEPS_AT_ONCE && modes[to] === mode) to++
      this.#current = await this.#compute(timesteps.subarray(run, to), mode)
      ;[this.#from, this.#to] = [run, to]
    }
    return { conditions: this.#current, row: run - this.#from }
  }

  release(): void {
    if (onDevice === this) onDevice = undefined
    releaseConditions(this.#current)
    this.#current = []
    this.#from = 0
    this.#to = 0
  }
}

/** The gates of the skipped blocks. Throws RangeError for a package without them; run-job.ts refuses such requests earlier. */
function skippedGates({ blocks }: Manifest, layers: readonly number[] | undefined): number[] {
  const skipped = layers ?? blocks?.skipped
  const gates = skipped?.flatMap((layer) => blocks?.gates[layer] ?? [])
  if (!gates || gates.length === 0) throw new RangeError('the package does not state the blocks to skip')
  return gates
}

/** The condition of one prompt without some blocks: their gates are zero, so that they add nothing. In JavaScript's memory. */
async function conditionWithoutBlocks(
  session: Session,
  prompt: PromptEmbeds,
  timesteps: Float32Array,
  { gates, width, control, signal }: ConditionOptions & { gates: readonly number[]; width: number },
): Promise<Condition> {
  const outputs = await session.run(conditioningInputs([prompt], timesteps), { signal })
  const [modulation, context] = [outputs.modulation!, outputs.context!]
  const size = modulation.dims.at(-1)!
  for (let step = 0; step < timesteps.length; step++)
    for (const gate of gates)
      (modulation.data as Float32Array).fill(0, step * size + gate * width, step * size + (gate + 1) * width)
  const own = control && { control: await conditionControl(control, [prompt], timesteps, signal) }
  return { batch: 1, modulation: new HostTensor(modulation), context: new HostTensor(context), ...own }
}

/** Computes the conditions of `prompts`, [negative, positive] or one, for a mode. */
export const computeConditions =
  (
    session: Session,
    prompts: PromptEmbeds[],
    { manifest, layers, ...options }: ConditionOptions & { manifest: Manifest; layers?: readonly number[] | undefined },
  ): Compute =>
  async (timesteps, mode) => {
    const positive = prompts.at(-1)!
    if (mode === 'plain') return condition(session, [positive], timesteps, options)
    if (mode === 'guided') return condition(session, prompts, timesteps, options)
    // Before the other condition, because this one is copied to the host.
    const gates = skippedGates(manifest, layers)
    const skipping = await conditionWithoutBlocks(session, positive, timesteps, {
      ...options,
      gates,
      width: manifest.position.width,
    })
    return [...(await condition(session, prompts, timesteps, options)), skipping]
  }
