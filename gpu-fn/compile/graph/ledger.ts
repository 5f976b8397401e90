// Ensures that every tensor of a network is read exactly once.

import { CheckpointError } from '../checkpoint/error.ts'
import type { Tensor } from '../checkpoint/tensor.ts'

/** Records which tensors of one network were read. */
export class Ledger {
  readonly network: string
  readonly tensors: ReadonlyMap<string, Tensor>
  readonly #unread: Set<string>

  constructor(network: string, tensors: ReadonlyMap<string, Tensor>) {
    this.network = network
    this.tensors = tensors
    this.#unread = new Set(tensors.keys())
  }

  /** Returns a tensor and records the read. `again`: an earlier graph has read it as well. Throws CheckpointError. */
  take(name: string, again = false): Tensor {
    const tensor = this.tensors.get(name)
    if (!tensor) throw new CheckpointError(this.network, `tensor ${name} is missing`)
    if (this.#unread.delete(name) === again)
      throw new CheckpointError(this.network, `tensor ${name} is read ${again ? 'for the first time' : 'twice'}`)
    return tensor
  }

  /** Throws a CheckpointError that lists unread tensors. */
  assertComplete(): void {
    if (this.#unread.size === 0) return
    const names = [...this.#unread]
    const more = names.length > 5 ? ` and ${names.length - 5} more` : ''
    throw new CheckpointError(
      this.network,
      `unexpected tensors (${names.length}): ${names.slice(0, 5).join(', ')}${more}`,
    )
  }
}
