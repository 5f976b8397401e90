// Weights that are updated in place, with host memory as the device.
import path from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { updatesOf } from '../../../gpu-fn/engine/package/adapters.ts'
import type { Package } from '../../../gpu-fn/manifest.ts'
import { reserveWeights } from '../../../gpu-fn/runtime/device-weights.ts'
import type { Address } from '../../../gpu-fn/runtime/native.ts'
import { openSession } from '../../../gpu-fn/runtime/open-session.ts'
import type { Tensor } from '../../../gpu-fn/runtime/session.ts'
import { openNativeSession } from '../../../gpu-fn/runtime/session-native.ts'
import { updateFile } from '../../../gpu-fn/runtime/update/in-file.ts'
import type { WeightUpdates } from '../../../gpu-fn/runtime/update/weight-update.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { createPseudoRandom } from '../../support/checkpoints/tensors.ts'
import { createHostMemory, readMemory } from '../../support/gpu/host-memory.ts'
import { compileTestLora, writeRandomLora } from '../../support/lora.ts'
import { LORAS } from '../../support/lora-outputs.ts'
import { hasAddon } from '../../support/native/addon.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
let packages: Record<'fp8' | 'integers' | 'cuda' | 'fp32', Package>
beforeAll(async () => {
  const open = async (tier: 'fp8' | 'fp32') => openPackage(await compileTiny({ tier }))
  const openIntegers = async (target: 'cpu' | 'cuda') =>
    openPackage(await compileTiny({ tier: 'fp8', target, adalnBits: 8 }))
  packages = {
    fp8: await open('fp8'),
    integers: await openIntegers('cpu'),
    cuda: await openIntegers('cuda'),
    fp32: await open('fp32'),
  }
})

const opened = new Map<string, ReturnType<typeof openNativeSession>>()
/** Opens an update graph once; all adapters have the same graphs. */
function openGraph(file: string) {
  const session = opened.get(path.basename(file)) ?? openNativeSession(file, { entries: {}, memoryPattern: false })
  opened.set(path.basename(file), session)
  return session
}
afterAll(async () => {
  for (const session of opened.values()) await (await session).release()
})
const graphs = { open: openGraph, hasKernels: false }
const weightsOf = (pkg: Package, network: string) => {
  const file = pkg.manifest.networks[network]!.weights!
  return { file: path.join(pkg.directory, file), tensors: pkg.manifest.weights[file]! }
}

async function createUpdates(pkg: Package, network: string, scale: number): Promise<WeightUpdates> {
  const lora = await compileTestLora(path.join(LORAS, 'everything.safetensors'), pkg.directory)
  return updatesOf(pkg, [{ lora, scale }]).get(network)!
}

/** Weights in host memory, and a copy of their bytes. */
async function openPlaced(pkg: Package, network: string) {
  const { memory } = createHostMemory()
  let address: Address = 0n
  const reserve = (bytes: number) => {
    address = memory.reserve(bytes)
    return address
  }
  const { file, tensors } = weightsOf(pkg, network)
  const weights = await reserveWeights({ file, tensors }, { device: { ...memory, reserve }, place: null }, graphs)
  onTestFinished(() => weights.release())
  await weights.load()
  const size = pkg.manifest.files[path.basename(file)]!.bytes
  const readBytes = () => readMemory(address, size)
  const open = (graph: string) => openNativeSession(graph, { entries: {}, memoryPattern: false })
  const updateInFile = async (changed: WeightUpdates) => Buffer.from(await updateFile({ file, tensors }, changed, open))
  return { weights, bytes: readBytes, updated: updateInFile }
}

test.skipIf(!hasAddon()).each([
  ['transformer', 'fp8'],
  // A network with weights in 16 bits.
  ['clip_l', 'fp8'],
  // Block-quantized integers; on CUDA with float16 scales.
  ['conditioning', 'integers'],
  ['conditioning', 'cuda'],
  ['transformer', 'fp32'],
] as const)(
  'in-place updates of %s in package %s equal updates of the file, and are reverted exactly',
  async (network, tier) => {
    const { weights, bytes, updated } = await openPlaced(packages[tier], network)
    const base = bytes()
    const [weak, strong] = [
      await createUpdates(packages[tier], network, 0.5),
      await createUpdates(packages[tier], network, -2),
    ]
    for (const changed of [weak, strong]) {
      await weights.update(changed)
      expect(bytes().equals(await updated(changed))).toBe(true)
      expect(bytes().equals(base)).toBe(false)
    }
    // The updates also apply after the weights are loaded again.
    weights.unload()
    await weights.load()
    expect(bytes().equals(await updated(strong))).toBe(true)
    await weights.update(undefined)
    expect(bytes().equals(base)).toBe(true)
  },
)

test.skipIf(!hasAddon())(
  'in-place updates by adapters of mixed types equal updates of the file, even in several batches',
  async () => {
    const pkg = packages.fp8
    const { weights, bytes, updated } = await openPlaced(pkg, 'transformer')
    const base = bytes()
    // The float16 factors of its eight modules have 8 MiB: one batch. Together with another type they are converted to float32: two batches.
    const file = path.join(scratch.directory, 'large.safetensors')
    await writeRandomLora(file, pkg.manifest.position.width, { rank: 2048, blocks: 2, dtype: 'F16' })
    const large = { lora: await compileTestLora(file, pkg.directory, 'large'), scale: 0.5 }
    const small = { lora: await compileTestLora(path.join(LORAS, 'everything.safetensors'), pkg.directory), scale: -1 }
    for (const adapters of [[large], [small, large], [small]]) {
      const changed = updatesOf(pkg, adapters).get('transformer')!
      await weights.update(changed)
      expect(bytes().equals(await updated(changed))).toBe(true)
    }
    await weights.update(undefined)
    expect(bytes().equals(base)).toBe(true)
  },
)

test.skipIf(!hasAddon())('a session computes with the updated weights', async () => {
  const pkg = packages.fp8
  const { memory } = createHostMemory()
  const [graph, weights] = [path.join(pkg.directory, 'transformer.onnx'), weightsOf(pkg, 'transformer')]
  const lora = await compileTestLora(path.join(LORAS, 'kohya.safetensors'), pkg.directory)
  const changed = updatesOf(pkg, [{ lora, scale: 1 }]).get('transformer')
  const offload = { weights, memory: () => memory }
  const session = await openNativeSession(graph, { entries: {}, memoryPattern: false, offload })
  onTestFinished(() => session.release())
  const reopened = await openSession(graph, { target: 'cpu', weights, updates: changed })
  onTestFinished(() => reopened.release())
  const base = await session.run(inputsOf(pkg))
  await session.weights!.update(changed)
  expect(await session.run(inputsOf(pkg))).toEqual(await reopened.run(inputsOf(pkg)))
  await session.weights!.update(undefined)
  expect(await session.run(inputsOf(pkg))).toEqual(base)
})

test.skipIf(!hasAddon())('a failed update leaves no weights in memory', async () => {
  const pkg = packages.fp8
  const { memory } = createHostMemory()
  const { copyFromHost, upload } = memory
  const fail = () => Promise.reject(new Error('the device is gone'))
  const weights = await reserveWeights(weightsOf(pkg, 'transformer'), { device: memory, place: null }, graphs)
  onTestFinished(() => weights.release())
  await weights.load()
  memory.upload = fail
  await expect(weights.update(await createUpdates(pkg, 'transformer', 1))).rejects.toThrow('the device is gone')
  await expect(weights.load()).rejects.toThrow('the device is gone')
  memory.upload = upload
  await weights.load()
  // Restoring the weights for the next adapter fails.
  memory.copyFromHost = fail
  await expect(weights.update(await createUpdates(pkg, 'transformer', 2))).rejects.toThrow('the device is gone')
  memory.copyFromHost = copyFromHost
  await weights.load()
})

function inputsOf({ manifest }: Package): Record<string, Tensor> {
  const lengths: Record<string, number> = { B: 1, L: 20, h: 8, w: 8 }
  return Object.fromEntries(
    manifest.networks.transformer!.inputs.map(({ name, shape }, i) => [
      name,
      createPseudoRandom(
        shape.map((dim) => lengths[dim] ?? Number(dim)),
        i,
      ),
    ]),
  )
}
