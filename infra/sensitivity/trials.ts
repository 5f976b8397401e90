// Velocity error of a float32 step graph with rounded weights, on recorded runs.
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { computeTensorBytes } from '../../gpu-fn/dtype.ts'
import type { Package, StoredTensor } from '../../gpu-fn/manifest.ts'
import { openSession } from '../../gpu-fn/runtime/open-session.ts'
import type { Rounding } from '../bench/precision/roundings.ts'
import { computeRelativeError } from '../bench/statistics.ts'
import type { RecordedRun } from './record.ts'

/** Chooses the rounding of a weight by name; null leaves it unrounded. */
export type RoundingOf = (name: string, shape: readonly number[]) => Rounding | null

/** Files of a trial, and layout and content of the unrounded weights. */
type Subject = {
  readonly graph: string
  readonly file: string
  readonly layout: readonly StoredTensor[]
  readonly content: Uint8Array<ArrayBuffer>
}

export class Trials {
  readonly #subject: Subject
  readonly #recorded: readonly RecordedRun[]

  /** `directory`: empty directory for the files of a trial. */
  static async open({ directory: from, manifest }: Package, directory: string, recorded: readonly RecordedRun[]) {
    const { file, weights } = manifest.networks.transformer!
    const graph = path.join(directory, file)
    await copyFile(path.join(from, file), graph)
    const content = new Uint8Array(await readFile(path.join(from, weights!)))
    const layout = manifest.weights[weights!]!
    return new Trials({ graph, file: path.join(directory, weights!), layout, content }, recorded)
  }

  private constructor(subject: Subject, recorded: readonly RecordedRun[]) {
    this.#subject = subject
    this.#recorded = recorded
  }

  /** Names and shapes of the weights. */
  get weights(): readonly Pick<StoredTensor, 'name' | 'shape'>[] {
    return this.#subject.layout
  }

  /** Relative velocity error with rounded weights, averaged over the recorded runs. */
  async errorWith(roundingOf: RoundingOf): Promise<number> {
    const { graph, file } = this.#subject
    await writeFile(file, this.#roundWeights(roundingOf))
    const session = await openSession(graph, { target: 'cpu' })
    try {
      let sum = 0
      for (const { inputs, velocity } of this.#recorded)
        sum += computeRelativeError((await session.run(inputs)).velocity!.data as Float32Array, velocity)
      return sum / this.#recorded.length
    } finally {
      await session.release()
    }
  }

  #roundWeights(roundingOf: RoundingOf): Uint8Array {
    const copy = this.#subject.content.slice()
    for (const { name, dtype, shape, offset } of this.#subject.layout) {
      const rounding = roundingOf(name, shape)
      if (!rounding) continue
      const values = new Float32Array(copy.buffer, offset, computeTensorBytes(dtype, shape) / 4)
      rounding(values, shape[0]!, values.length / shape[0]!)
    }
    return copy
  }
}
