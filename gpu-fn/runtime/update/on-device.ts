// Updates of weights in place on their device.
import { ONNX_DATA_TYPES, tensorBytes } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import type { DeviceMemory } from '../device-memory.ts'
import { NativeTensor } from '../native-tensor.ts'
import type { OrtApi, Pointer } from '../ort-api.ts'
import type { DeviceTensor, Session } from '../session.ts'
import {
  columnsOf,
  FactorFiles,
  graphOf,
  phaseInputs,
  type Segment,
  segmentsOf,
  type WeightUpdate,
  type WeightUpdates,
} from './weight-update.ts'

/** The weights of a session on its device. */
export type Placed = {
  readonly address: Pointer
  readonly device: DeviceMemory
  readonly api: OrtApi
  /** onnxruntime's description of the device's memory. */
  readonly memory: Pointer
  readonly updateGraphs: UpdateGraphs
}
export type UpdateGraphs = {
  /** Whether the graphs may have our kernels. */
  readonly hasKernels: boolean
  /** Opens a graph whose inputs may be on the device. */
  readonly open: (file: string) => Promise<Session>
}

/** Maximum number of values that the kernel updates at once. Each takes one byte of device memory. */
const KERNEL_VALUES = 1 << 28

/** Updates weights that have the content of their file. Throws the errors of a run, after which the weights are undefined. */
export async function updateOnDevice(placed: Placed, updates: WeightUpdates): Promise<void> {
  await using files = new FactorFiles()
  const segments = segmentsOfAll(updates, files, placed.updateGraphs.hasKernels)
  // The matrices of a segment are read while the previous one is updated.
  for (let next = segments.next(); ; ) {
    const { value, done } = await next
    if (done) return
    next = segments.next()
    next.catch(() => {}) // thrown by the next iteration
    const { update, graph, segment } = value
    await updateSegment(placed, await placed.updateGraphs.open(graph), update, segment)
  }
}

async function* segmentsOfAll(updates: WeightUpdates, files: FactorFiles, hasKernels: boolean) {
  for (const update of updates.weights) {
    const graph = graphOf(updates, update.weight, hasKernels)
    const limit = hasKernels && update.scales ? KERNEL_VALUES : undefined
    for await (const segment of segmentsOf(update, files, limit)) yield { update, graph, segment }
  }
}

async function updateSegment(placed: Placed, session: Session, { weight, scales }: WeightUpdate, segment: Segment) {
  const columns = columnsOf(weight)
  const rows = segment.end - segment.start
  const codes = rowsOf(placed, weight, segment, [rows, columns], scales ? 'uint8' : weight.dtype)
  const rowScales = scales && rowsOf(placed, scales, segment, [rows, 1], 'float32')
  const stored = rowScales
    ? { codes: codes.tensor, scales: rowScales.tensor, ...phaseInputs(segment, columns) }
    : { weight: codes.tensor }
  const outputs = await session.runOnDevice({ ...stored, ...segment.inputs })
  try {
    await writeBack(placed, outputs.updated!, codes)
    if (rowScales) await writeBack(placed, outputs.updated_scales!, rowScales)
  } finally {
    for (const tensor of [...Object.values(outputs), ...Object.values(stored)])
      if (tensor instanceof NativeTensor) tensor.release()
  }
}

type Range = { tensor: NativeTensor; address: Pointer; bytes: number }

function rowsOf(
  { address, api, memory, device }: Placed,
  { dtype, shape, offset }: StoredTensor,
  { start, end }: Segment,
  dims: readonly number[],
  type: keyof typeof ONNX_DATA_TYPES,
): Range {
  const row = tensorBytes(dtype, shape.slice(1))
  const [first, bytes] = [address + BigInt(offset + start * row), (end - start) * row]
  const sizes = BigInt64Array.from(dims.map(BigInt))
  const layout = [bytes, sizes, sizes.length, ONNX_DATA_TYPES[type]]
  const value = api.make('CreateTensorWithDataAsOrtValue', memory, first, ...layout)
  return { tensor: new NativeTensor(api, { info: memory, memory: () => device }, value), address: first, bytes }
}

const writeBack = ({ api, device }: Placed, from: DeviceTensor, { address, bytes }: Range): Promise<void> =>
  device.copyOnDevice(address, api.make('GetTensorMutableData', NativeTensor.valueOf(from)), bytes)
