// In-place weight updates on the device, pipelined: updating a batch overlaps with reading and uploading the factors of the next batch and
// with restoring the weights of later batches.
import { channel } from 'node:diagnostics_channel'
import { computeTensorBytes, type Dtype } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import type { DeviceMemory } from '../device-memory.ts'
import { type Address, type NativeAllocation, type NativeTensor, type Place, viewMemory } from '../native.ts'
import { settleAll } from '../settle-all.ts'
import { type Batch, batchesOf, type Input, type SegmentUpdate } from './batches.ts'
import { FactorFiles } from './factor-files.ts'
import { columnsOf, phasesOf, rankScales, type WeightUpdate, type WeightUpdates } from './weight-update.ts'

/** The weights of a session on its device. */
export type PlacedWeights = {
  readonly address: Address
  readonly device: DeviceMemory
  readonly place: Place
  readonly updateGraphs: UpdateGraphs
}
export type UpdateGraphs = {
  /** Whether the graphs may have our kernels. */
  readonly hasKernels: boolean
  /** Opens a graph on the device of the weights. */
  readonly open: (file: string) => Promise<UpdateSession>
}
/** Session of a graph with tensors in device memory as inputs and outputs. */
export interface UpdateSession {
  /** Runs the graph and writes its outputs to `outputs`, which may alias inputs. Throws `SessionError`. */
  runInto(inputs: Record<string, NativeTensor>, outputs: Record<string, NativeTensor>): Promise<void>
  /** Allocates device memory from the session's memory arena. Throws an Error if the device is out of memory. */
  allocate(bytes: number): NativeAllocation
}
/** Weights that differ from their file, and a function to restore some of them. */
export type Restoration = {
  readonly stale: readonly WeightUpdate[]
  readonly restore: (weights: readonly WeightUpdate[]) => Promise<void>
}

/** Wait times of a change in seconds: for factors, for restored weights, and for runs of update graphs. */
export type UpdateTimes = { factors: number; restoration: number; runs: number }
/** Channel with the `UpdateTimes` of each change. */
export const updateTimes = channel('octet:weight-update')

/** Restores stale weights and applies updates. Rethrows errors of copies and runs; the weights are then undefined. */
export async function updateOnDevice(
  placed: PlacedWeights,
  updates: WeightUpdates,
  { stale, restore }: Restoration,
): Promise<void> {
  const batches = batchesOf(updates, placed.updateGraphs.hasKernels)
  const nameOf = ({ weight }: WeightUpdate) => weight.name
  const [old, current] = [new Set(stale.map(nameOf)), new Set(updates.weights.map(nameOf))]
  const groups = batches.map(({ weights }) => weights.filter((weight) => old.has(nameOf(weight))))
  groups.push(stale.filter((weight) => !current.has(nameOf(weight))))
  let last = Promise.resolve()
  const restored = groups.map((weights) => {
    last = last.then(() => (weights.length > 0 ? restore(weights) : undefined))
    return last
  })
  last.catch(() => {}) // thrown by the batches, or below
  try {
    await updateBatches(placed, batches, restored)
  } finally {
    await Promise.allSettled(restored)
  }
  await last
}

async function updateBatches(
  placed: PlacedWeights,
  batches: readonly Batch[],
  restored: readonly Promise<void>[],
): Promise<void> {
  const times: UpdateTimes = { factors: 0, restoration: 0, runs: 0 }
  const measure = async (what: keyof UpdateTimes, action: Promise<unknown>) => {
    const start = performance.now()
    await action
    times[what] += (performance.now() - start) / 1000
  }
  await using files = new FactorFiles()
  const size = Math.max(...batches.map(({ bytes }) => bytes))
  const session = await placed.updateGraphs.open(batches[0]!.segments[0]!.graph)
  // Double buffering: one buffer is filled while runs read the other. Both are in the memory arena, where the blocks for steps are free during
  // a change, so the memory plan already covers them.
  const hosts = [new Uint8Array(size), new Uint8Array(size)]
  const memory = session.allocate(2 * size)
  const buffers = hosts.map((host, i) => ({ address: memory.address + BigInt(i * size), host }))
  const upload = (i: number) => (i < batches.length ? fill(placed, files, batches[i]!, buffers[i % 2]!) : undefined)
  let [ready, running] = [Promise.resolve(upload(0)), Promise.resolve()]
  try {
    for (const [i, batch] of batches.entries()) {
      await measure('factors', ready)
      await measure('restoration', restored[i]!)
      running = run(placed, batch, buffers[i % 2]!.address)
      ready = Promise.resolve(upload(i + 1))
      ready.catch(() => {}) // thrown by the next iteration
      await measure('runs', running)
    }
  } finally {
    await Promise.allSettled([ready, running])
    memory.release()
  }
  updateTimes.publish(times)
}

type Buffer = { readonly address: Address; readonly host: Uint8Array }

/** Reads the inputs of a batch and copies them to the device. */
async function fill(
  { device }: PlacedWeights,
  files: FactorFiles,
  { segments, bytes, dtype }: Batch,
  { address, host }: Buffer,
) {
  const reads = segments.map(async ({ segment, inputs }) => {
    const place = ({ start, bytes }: Input) => host.subarray(start, start + bytes)
    const put = (name: string, { buffer, byteOffset, byteLength }: Float32Array) => {
      const input = inputs[name]
      if (input) place(input).set(new Uint8Array(buffer, byteOffset, byteLength))
    }
    put('factors', rankScales(segment))
    const phases = phasesOf(segment)
    put('row_phases', phases.rows)
    put('column_phases', phases.columns)
    await files.read(segment, dtype, { up: place(inputs.up), down: place(inputs.down) })
  })
  await settleAll(reads)
  await device.upload(address, host.subarray(0, bytes))
}

/** Updates the weights of a batch. `address`: its inputs in device memory. */
async function run(placed: PlacedWeights, { segments }: Batch, address: Address): Promise<void> {
  // Enqueues all runs at once, so that the device thread does not wait for the event loop between runs.
  await settleAll(segments.map((update) => updateSegment(placed, update, address)))
}

type MakeView = (address: Address, dtype: Dtype, shape: readonly number[]) => NativeTensor

async function updateSegment(placed: PlacedWeights, update: SegmentUpdate, address: Address): Promise<void> {
  const { place, updateGraphs } = placed
  const session = await updateGraphs.open(update.graph)
  const made: NativeTensor[] = []
  const make: MakeView = (at, dtype, shape) => {
    const view = viewMemory(place, { address: at, dtype, shape })
    made.push(view)
    return view
  }
  try {
    const inputs: Record<string, NativeTensor> = {}
    for (const [name, { start, dtype, shape }] of Object.entries(update.inputs))
      inputs[name] = make(address + BigInt(start), dtype, shape)
    const { stored, outputs } = toStoredValues(placed, update, make)
    await session.runInto({ ...inputs, ...stored }, outputs)
  } finally {
    for (const view of made) view.release()
  }
}

/** The rows of a segment as inputs of its graph, and as outputs that alias them. */
function toStoredValues(
  placed: PlacedWeights,
  { update: { weight, scales }, segment: { start, end, columns } }: SegmentUpdate,
  make: MakeView,
) {
  const rows = end - start
  const addressOf = ({ dtype, shape, offset }: StoredTensor) =>
    placed.address + BigInt(offset + start * computeTensorBytes(dtype, shape.slice(1)))
  if (!scales) {
    const values = make(addressOf(weight), weight.dtype, [rows, columns])
    return { stored: { weight: values }, outputs: { updated: values } }
  }
  const codes = make(addressOf(weight), 'uint8', [rows, columns])
  const values = make(addressOf(scales), scales.dtype, [rows, columnsOf(scales)])
  return { stored: { codes, scales: values }, outputs: { updated: codes, updated_scales: values } }
}
