// Compares the results of networks that use the same GPU memory alternately: each must compute with its own weights. The options separate the
// possible causes of wrong results: the order of copies and runs, and the operators themselves.
import { countElements } from '../../../gpu-fn/dtype.ts'
import { loadCuda } from '../../../gpu-fn/runtime/cuda.ts'
import type { DeviceMemory } from '../../../gpu-fn/runtime/device-memory.ts'
import { loadNative, type NativeStream } from '../../../gpu-fn/runtime/native.ts'
import type { Session, Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openNativeSession } from '../../../gpu-fn/runtime/session-native.ts'
import { computeRelativeError } from '../../../infra/bench/statistics.ts'
import { makeScratch } from '../../../infra/command/scratch.ts'
import { NETWORKS, type Network, writeNetwork } from './networks.ts'

export type OffloadOptions = {
  rounds: number
  /** Additionally orders copies and runs by events between their streams. */
  events?: boolean | undefined
  /** Leaves the weights on the GPU: wrong results are then errors of the operators. */
  resident?: boolean | undefined
}

type Device = { readonly memory: DeviceMemory; readonly stream: NativeStream | undefined }
type Open = {
  readonly network: Network
  readonly session: Session
  readonly x: Tensor
  readonly expected: Float32Array
}
/** Result counts of a network. `transient`: wrong results that were correct in a repeated run with the same loaded weights. */
type Tally = { wrong: number; transient: number; largest: number }

/** Prints the number of wrong results of each network. Throws if there are any. */
export async function checkOffloading(options: OffloadOptions): Promise<void> {
  const { rounds, events, resident } = options
  await using temporary = makeScratch('octet-offload-')
  const scratch = temporary.directory
  const opened: Open[] = []
  try {
    const device = events ? orderByEvents(loadCuda(0)) : { memory: loadCuda(0), stream: undefined }
    for (const network of NETWORKS) {
      opened.push(await open(scratch, network, device))
      if (!resident) opened.at(-1)!.session.weights!.unload()
    }
    const tallies = await takeTurns(opened, options)
    const how = resident ? 'with resident weights' : 'in the same memory'
    console.log(`${rounds} runs of each network ${how}${events ? ', ordered by events' : ''}:`)
    for (const [{ name }, tally] of tallies) console.log(describe(name, tally))
    const wrong = [...tallies.values()].reduce((sum, tally) => sum + tally.wrong, 0)
    if (wrong > 0) throw new Error(`${wrong} of ${NETWORKS.length * rounds} results with loaded weights are wrong`)
  } finally {
    for (const { session } of opened) await session.release()
  }
}

async function takeTurns(opened: readonly Open[], { rounds, resident }: OffloadOptions): Promise<Map<Network, Tally>> {
  const tallies = new Map(NETWORKS.map((network) => [network, { wrong: 0, transient: 0, largest: 0 }]))
  for (let round = 0; round < rounds; round++)
    for (const each of opened) {
      const tally = tallies.get(each.network)!
      const isRight = (error: number) => error <= each.network.tolerance
      const error = await errorOf(each)
      // NaN also counts as wrong.
      if (!isRight(error)) {
        tally.wrong++
        if (isRight(await errorOf(each))) tally.transient++
      }
      if (!(error <= tally.largest)) tally.largest = error
      if (!resident) each.session.weights!.unload()
    }
  return tallies
}

const errorOf = async ({ session, x, expected }: Open) => computeRelativeError(await compute(session, x), expected)

async function compute(session: Session, x: Tensor): Promise<Float32Array> {
  return (await session.run({ x })).y!.data as Float32Array
}

function describe(name: string, { wrong, transient, largest }: Tally): string {
  const repeated = wrong > 0 ? `, ${transient} of them right when repeated with the same weights` : ''
  return `${wrong > 0 ? '✗' : ' '} ${name}: ${wrong} wrong${repeated}; largest relative error ${largest.toExponential(1)}`
}

/** Opens a network, and runs it once for the expected result. */
async function open(scratch: string, network: Network, { memory, stream }: Device): Promise<Open> {
  const { file, weights } = await writeNetwork(scratch, network)
  const session = await openNativeSession(file, {
    entries: { 'session.use_device_allocator_for_initializers': '1' },
    memoryPattern: false,
    cuda: { arena_extend_strategy: 'kSameAsRequested' },
    stream,
    offload: { weights, memory: () => memory },
  })
  const data = Float32Array.from({ length: countElements(network.input) }, (_, i) => Math.sin(i))
  const x = { data, dims: network.input }
  return { network, session, x, expected: await compute(session, x) }
}

/** Copies wait for earlier runs, and runs for earlier copies, on the device. */
function orderByEvents(memory: DeviceMemory): Device {
  const gpu = loadNative().Gpu.open(0)
  const [copies, runs] = [gpu.createStream(), gpu.createStream()]
  const [copied, ran] = [gpu.createEvent(), gpu.createEvent()]
  const copyFromHost: DeviceMemory['copyFromHost'] = async (ranges) => {
    ran.record(runs)
    copies.wait(ran)
    await copies.copyFromHost(ranges)
    copied.record(copies)
    runs.wait(copied)
  }
  return { memory: { ...memory, copyFromHost }, stream: runs }
}
