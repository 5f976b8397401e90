// Runs the two graphs of the denoiser: `conditioning` once per prompt, `transformer` in every step.
import type { DeviceTensor, Session, Tensor } from '../runtime/session.ts'
import { settleAll } from '../runtime/settle-all.ts'
import { type Guidance, runGuided } from './control.ts'
import type { PromptEmbeds } from './prompt/prompt.ts'

/** The graphs of the denoiser, open on one device. */
export type Denoiser = { conditioning: Session; transformer: Session }

/**
 * Inputs of the step graph for one batch of prompts: `modulation` [T, B, M] of all steps and `context` [B, L, D], on the device of
 * `transformer`. With a ControlNet, `control` is its modulation.
 */
export type Condition = {
  transformer: Session
  batch: number
  modulation: DeviceTensor
  context: DeviceTensor
  control?: DeviceTensor
}

export type ConditionOptions = {
  batched: boolean
  /** The conditioning graph of a ControlNet. */
  control?: Session | undefined
  signal?: AbortSignal
}

/**
 * Runs the conditioning graph for [negative, positive] prompts, or for one. They share a batch if `batched` allows it and their embeddings
 * have equally many rows.
 */
export async function condition(
  { conditioning, transformer }: Denoiser,
  prompts: PromptEmbeds[],
  timesteps: Float32Array,
  { batched, control, signal }: ConditionOptions,
): Promise<Condition[]> {
  const together = batched && prompts.every(({ rows }) => rows === prompts[0]!.rows)
  const conditions: Condition[] = []
  try {
    for (const group of together ? [prompts] : prompts.map((prompt) => [prompt])) {
      const { modulation, context } = await conditioning.runOnDevice(createConditioningInputs(group, timesteps), {
        signal,
      })
      const made: Condition = { transformer, batch: group.length, modulation: modulation!, context: context! }
      conditions.push(made)
      if (control) made.control = await conditionControl(control, group, timesteps, signal)
    }
  } catch (error) {
    releaseConditions(conditions)
    throw error
  }
  return conditions
}

/** Runs the conditioning graph of a ControlNet, which reads only the pooled embeddings: its modulation [T, B, M]. */
export async function conditionControl(
  session: Session,
  prompts: readonly PromptEmbeds[],
  timesteps: Float32Array,
  signal?: AbortSignal,
): Promise<DeviceTensor> {
  const { timesteps: times, pooled } = createConditioningInputs(prompts, timesteps)
  return (await session.runOnDevice({ timesteps: times!, pooled: pooled! }, { signal })).modulation!
}

/** Inputs of the conditioning graph for prompts of equal length. */
export const createConditioningInputs = (
  prompts: readonly PromptEmbeds[],
  timesteps: Float32Array,
): Record<string, Tensor> => ({
  timesteps: { data: timesteps, dims: [timesteps.length] },
  pooled: stack(
    prompts.map(({ pooled }) => pooled),
    [-1],
  ),
  prompt_embeds: stack(
    prompts.map(({ embeds }) => embeds),
    [prompts[0]!.rows, -1],
  ),
})

type StepOptions = {
  guidanceScale: number
  skipScale?: number
  position: Tensor | undefined
  /** The guidance of a step with a ControlNet. */
  guidance?: Guidance | undefined
  signal: AbortSignal
}

/**
 * Velocity [C, h, w] at one step. The conditions have one prompt, or with guidance the negative and the positive one, and with skip-layer
 * guidance also the positive one without some blocks. Conditions of different devices run concurrently.
 */
export async function predictVelocity(
  latent: Tensor,
  conditions: Condition[],
  step: number,
  options: StepOptions,
): Promise<Float32Array> {
  const { guidance, signal } = options
  const run = async ({ transformer, batch, modulation, context, control }: Condition) => {
    const inputs = {
      latent: repeat(latent, batch),
      modulation: modulation.row(step),
      context,
      ...(options.position && { position: options.position }),
    }
    const { velocity } =
      guidance && control
        ? await runGuided(
            guidance,
            inputs,
            { modulation: control.row(step), latent: repeat(guidance.latent, batch) },
            { signal },
          )
        : await transformer.run(inputs, { signal })
    return splitSamples(velocity!.data as Float32Array, batch)
  }
  const velocities: Float32Array[][] = []
  const devices = Map.groupBy(conditions.keys(), (index) => conditions[index]!.transformer)
  const runInTurn = async (indices: readonly number[]) => {
    for (const index of indices) velocities[index] = await run(conditions[index]!)
  }
  await settleAll([...devices.values()].map(runInTurn))
  const [first, second, third] = velocities.flat()
  if (!second) return first!
  const away = third && scaleDifference(second, third, options.skipScale ?? 0)
  const guided = guide(first!, second, options.guidanceScale)
  if (away) for (let i = 0; i < guided.length; i++) guided[i] = guided[i]! + away[i]!
  return guided
}

/** `scale · (positive - skipping)`, written to `skipping`. diffusers pipeline_stable_diffusion_3.py `__call__` */
function scaleDifference(positive: Float32Array, skipping: Float32Array, scale: number): Float32Array {
  const weight = Math.fround(scale)
  for (let i = 0; i < skipping.length; i++) skipping[i] = weight * Math.fround(positive[i]! - skipping[i]!)
  return skipping
}

/** Rows of equal length as one tensor [rows, ...dims]; one of `dims` may be -1 and is inferred. */
function stack(rows: Float32Array[], dims: readonly number[]): Tensor {
  const size = rows[0]!.length
  const known = dims.reduce((product, dim) => (dim < 0 ? product : product * dim), 1)
  // A single row, such as the 5 MB of a prompt, is not copied.
  const data = rows.length === 1 ? rows[0]! : new Float32Array(size * rows.length)
  if (rows.length > 1) for (const [i, row] of rows.entries()) data.set(row, i * size)
  return { data, dims: [rows.length, ...dims.map((dim) => (dim < 0 ? size / known : dim))] }
}

/** Releases the tensors of `condition`. */
export function releaseConditions(conditions: readonly Condition[]): void {
  for (const { modulation, context, control } of conditions) {
    modulation.release()
    context.release()
    control?.release()
  }
}

/** The same latent [1, C, h, w] for every sample of a batch. */
function repeat({ data, dims }: Tensor, batch: number): Tensor {
  if (batch === 1) return { data, dims }
  return stack(new Array<Float32Array>(batch).fill(data as Float32Array), dims.slice(1))
}

function splitSamples(data: Float32Array, batch: number): Float32Array[] {
  const size = data.length / batch
  return Array.from({ length: batch }, (_, i) => data.subarray(i * size, (i + 1) * size))
}

/** Classifier-free guidance (arXiv 2207.12598): `negative + scale · (positive - negative)`, written to `positive`. */
export function guide(negative: Float32Array, positive: Float32Array, scale: number): Float32Array {
  const weight = Math.fround(scale)
  for (let i = 0; i < positive.length; i++) {
    const difference = Math.fround(positive[i]! - negative[i]!)
    positive[i] = negative[i]! + Math.fround(weight * difference)
  }
  return positive
}
