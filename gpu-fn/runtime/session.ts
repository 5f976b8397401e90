// The interface of an open graph, independent of onnxruntime's binding.
import { countElements } from '../dtype.ts'
import type { DeviceWeights } from './device-weights.ts'

export type Tensor = { data: Float32Array | BigInt64Array | Uint8Array; dims: readonly number[] }

/** A float32 output in the session's memory, as an input of sessions of the same kind. Must be released. */
export interface DeviceTensor {
  readonly dims: readonly number[]
  /** One entry of the first axis, released with the whole tensor. Throws RangeError. */
  row(index: number): DeviceTensor
  /** A copy of this tensor and others, one after the other along the first axis. */
  join(others: readonly DeviceTensor[]): Promise<DeviceTensor>
  release(): void
}

export type RunOptions = {
  /** Stops the run between two operators, if the binding supports it; `run` then throws the signal's reason. */
  signal?: AbortSignal | undefined
}

export interface Session {
  /**
   * Runs the graph and returns all outputs, or those in `only`. Throws `SessionError`, including for a missing, unknown or misshapen input.
   */
  run(
    inputs: Record<string, Tensor | DeviceTensor>,
    options?: RunOptions & { only?: readonly string[] },
  ): Promise<Record<string, Tensor>>
  /** Runs the graph with all outputs on the device. */
  runOnDevice(
    inputs: Record<string, Tensor | DeviceTensor>,
    options?: RunOptions,
  ): Promise<Record<string, DeviceTensor>>
  /** Present if the weights can be unloaded while the session stays open. A run loads them again. */
  readonly weights?: Pick<DeviceWeights, 'load' | 'unload' | 'update'> | undefined
  /**
   * A session of another graph over the same weights, opened on first use and released with this one. On CUDA both share the weights' memory.
   * Throws `SessionError`.
   */
  another?(file: string): Promise<Session>
  /** The captured kinds of runs, for reports; absent if the binding has none. */
  describeCaptures?(): Promise<string[]>
  /** Waits for runs in progress. */
  release(): Promise<void>
}

/** Releases the sessions of other graphs that a session has opened. */
export async function releaseAll(sessions: ReadonlyMap<string, Promise<Session>>): Promise<void> {
  for (const opened of await Promise.allSettled(sessions.values()))
    if (opened.status === 'fulfilled') await opened.value.release()
}

/** Whether a tensor's data are in JavaScript's memory. */
export const isOnHost = (tensor: Tensor | DeviceTensor): tensor is Tensor => 'data' in tensor

/** A tensor of the Node binding, which has no device tensors. */
export class HostTensor implements DeviceTensor, Tensor {
  readonly data: Tensor['data']
  readonly dims: readonly number[]

  constructor({ data, dims }: Tensor) {
    this.data = data
    this.dims = dims
  }

  row(index: number): DeviceTensor {
    const [count, ...dims] = this.dims
    if (!(index >= 0 && index < count!)) throw new RangeError(`row ${index} is outside of ${count} rows`)
    const size = countElements(dims)
    return new HostTensor({ data: this.data.subarray(index * size, (index + 1) * size) as Tensor['data'], dims })
  }

  join(others: readonly DeviceTensor[]): Promise<DeviceTensor> {
    return Promise.resolve(new HostTensor(concatenate([this, ...(others as HostTensor[])])))
  }

  release(): void {}
}

/** Tensors of equal type and shape, one after the other along the first axis. */
export function concatenate(tensors: readonly Tensor[]): Tensor {
  const [{ data: first, dims }] = tensors as [Tensor, ...Tensor[]]
  const rows = tensors.reduce((sum, tensor) => sum + tensor.dims[0]!, 0)
  const data = new (first.constructor as Float32ArrayConstructor)((first.length / dims[0]!) * rows)
  let at = 0
  for (const tensor of tensors) {
    data.set(tensor.data as Float32Array, at)
    at += tensor.data.length
  }
  return { data, dims: [rows, ...dims.slice(1)] }
}

/** onnxruntime rejected a graph or a run; the message names the file and the reason. */
export class SessionError extends Error {
  override name = 'SessionError' as const
}

/** Runs `action` and rethrows its error as a SessionError that begins with `what`. */
export async function wrapErrors<T>(what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (cause) {
    throw new SessionError(`${what}: ${cause instanceof Error ? cause.message : cause}`, { cause })
  }
}
