// Runs the two graphs of the denoiser: `conditioning` once per prompt, `transformer` in every step.

import type { DeviceTensor, Session, Tensor } from '../runtime/session.ts'
import type { PromptEmbeds } from './prompt.ts'

/** Inputs of the step graph for one batch of prompts, on the device: `modulation` [T, B, M] of all steps and `context` [B, L, D]. */
export type Condition = { batch: number; modulation: DeviceTensor; context: DeviceTensor }

/**
 * Runs the conditioning graph for [negative, positive] prompts, or for one. They share a batch if `batched` allows it and their embeddings
 * have equally many rows.
 */
export async function condition(
  session: Session,
  prompts: PromptEmbeds[],
  timesteps: Float32Array,
  { batched, signal }: { batched: boolean; signal?: AbortSignal },
): Promise<Condition[]> {
  const together = batched && prompts.every(({ rows }) => rows === prompts[0]!.rows)
  const conditions: Condition[] = []
  for (const group of together ? [prompts] : prompts.map((prompt) => [prompt])) {
    const inputs = {
      timesteps: { data: timesteps, dims: [timesteps.length] },
      pooled: stack(
        group.map(({ pooled }) => pooled),
        [-1],
      ),
      prompt_embeds: stack(
        group.map(({ embeds }) => embeds),
        [group[0]!.rows, -1],
      ),
    }
    const { modulation, context } = await session.runOnDevice(inputs, { signal })
    conditions.push({ batch: group.length, modulation: modulation!, context: context! })
  }
  return conditions
}

/** Maximum number of steps per run of `conditioning`, which bounds the memory of the modulation. */
export const STEPS_AT_ONCE = 50

/**
 * The conditions on the device. Those of an interrupted run are released when another needs its own, and computed again when it continues:
 * they take hundreds of megabytes, and computing them takes less time than a step.
 */
let onDevice: Conditions | undefined

/** The conditions of all steps, computed when needed for `STEPS_AT_ONCE` steps at a time. Call `release` at the end. */
export class Conditions {
  readonly #compute: (timesteps: Float32Array) => Promise<Condition[]>
  readonly #timesteps: Float32Array
  #first = -1
  #current: Condition[] = []

  constructor(timesteps: Float32Array, compute: (timesteps: Float32Array) => Promise<Condition[]>) {
    this.#timesteps = timesteps
    this.#compute = compute
  }

  /** The conditions of a step, and its row in their modulation. */
  async at(step: number): Promise<{ conditions: Condition[]; row: number }> {
    const row = step % STEPS_AT_ONCE
    const first = step - row
    if (onDevice !== this) onDevice?.release()
    onDevice = this
    if (first !== this.#first) {
      this.release()
      onDevice = this
      this.#current = await this.#compute(this.#timesteps.subarray(first, first + STEPS_AT_ONCE))
      this.#first = first
    }
    return { conditions: this.#current, row }
  }

  release(): void {
    if (onDevice === this) onDevice = undefined
    releaseConditions(this.#current)
    this.#current = []
    this.#first = -1
  }
}

/** Velocity [C, h, w] at one step, with guidance if there are two prompts. */
export async function predictVelocity(
  session: Session,
  latent: Tensor,
  conditions: Condition[],
  step: number,
  options: { guidanceScale: number; position: Tensor | undefined; signal: AbortSignal },
): Promise<Float32Array> {
  const velocities: Float32Array[] = []
  for (const { batch, modulation, context } of conditions) {
    const inputs = {
      latent: repeat(latent, batch),
      modulation: modulation.row(step),
      context,
      ...(options.position && { position: options.position }),
    }
    const { velocity } = await session.run(inputs, options)
    velocities.push(...samples(velocity!.data as Float32Array, batch))
  }
  const [first, second] = velocities
  return second ? guide(first!, second, options.guidanceScale) : first!
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
  for (const { modulation, context } of conditions) {
    modulation.release()
    context.release()
  }
}

/** The same latent [1, C, h, w] for every sample of a batch. */
function repeat({ data, dims }: Tensor, batch: number): Tensor {
  if (batch === 1) return { data, dims }
  return stack(new Array<Float32Array>(batch).fill(data as Float32Array), dims.slice(1))
}

function samples(data: Float32Array, batch: number): Float32Array[] {
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
