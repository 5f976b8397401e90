// Updates of weights in place on their device.
import { ONNX_DATA_TYPES, tensorBytes } from '../../dtype.ts'
import type { StoredTensor } from '../../manifest.ts'
import type { DeviceMemory } from '../device-memory.ts'
import { NativeTensor } from '../native-tensor.ts'
import type { OrtApi, Pointer } from '../ort-api.ts'
import type { DeviceTensor, Session } from '../session.ts'
import {
  columnsOf,
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
  /** An open graph whose inputs may be on the device. */
  readonly openGraph: (file: string) => Promise<Session>
}

/** Updates weights that have the content of their file. Throws the errors of a run, after which the weights are undefined. */
export async function updateOnDevice(placed: Placed, updates: WeightUpdates): Promise<void> {
  for (const update of updates.weights) {
    const session = await placed.openGraph(graphOf(updates, update.weight))
    for await (const segment of segmentsOf(update)) await updateSegment(placed, session, update, segment)
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
  { address, api, memory }: Placed,
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
  return { tensor: new NativeTensor(api, memory, value), address: first, bytes }
}

const writeBack = ({ api, device }: Placed, from: DeviceTensor, { address, bytes }: Range): Promise<void> =>
  device.copyOnDevice(address, api.make('GetTensorMutableData', NativeTensor.valueOf(from)), bytes)
