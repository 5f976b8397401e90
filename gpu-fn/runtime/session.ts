// An opened graph, whichever binding of onnxruntime runs it.
import type { DeviceWeights } from './device-weights.ts'

export type Tensor = { data: Float32Array | BigInt64Array | Uint8Array; dims: readonly number[] }

/** A float32 result that stays where its session computes, to be read by sessions of the same kind. Free it with `release`. */
export interface DeviceTensor {
  readonly dims: readonly number[]
  /** One entry of the first axis; it lives as long as the whole. Throws RangeError. */
  row(index: number): DeviceTensor
  release(): void
}

export type RunOptions = {
  /** Stops the run between two operators, where the binding can; `run` then throws the signal's reason. */
  signal?: AbortSignal | undefined
}

export interface Session {
  /** Runs the graph once and gives all outputs, or those of `only`. Throws `SessionError`, also for an input that is missing, unknown or of the wrong shape. */
  run(
    inputs: Record<string, Tensor | DeviceTensor>,
    options?: RunOptions & { only?: readonly string[] },
  ): Promise<Record<string, Tensor>>
  /** The same, with all results left on the device. */
  runOnDevice(
    inputs: Record<string, Tensor | DeviceTensor>,
    options?: RunOptions,
  ): Promise<Record<string, DeviceTensor>>
  /** Where weights can leave the device while the session stays. A run brings them back. */
  readonly weights?: Pick<DeviceWeights, 'load' | 'unload'> | undefined
  /** Waits for runs that are under way. */
  release(): Promise<void>
}

/** The Node binding keeps nothing on the device. */
export class HostTensor implements DeviceTensor, Tensor {
  readonly data: Tensor['data']
  readonly dims: readonly number[]

  constructor({ data, dims }: Tensor) {
    this.data = data
    this.dims = dims
  }

  row(index: number): DeviceTensor {
    const [count, ...dims] = this.dims
    if (!(index >= 0 && index < count!)) throw new RangeError(`row ${index} of ${count} is asked for`)
    const size = dims.reduce((n, dim) => n * dim, 1)
    return new HostTensor({ data: this.data.subarray(index * size, (index + 1) * size) as Tensor['data'], dims })
  }

  release(): void {}
}

/** onnxruntime refused a graph or a run; the message names the file and says why. */
export class SessionError extends Error {
  override name = 'SessionError' as const
}

/** Runs `action`; what it throws becomes a SessionError that begins with `what`. */
export async function failingWith<T>(what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (cause) {
    throw new SessionError(`${what}: ${cause instanceof Error ? cause.message : cause}`, { cause })
  }
}
