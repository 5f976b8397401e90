// Compares the outputs of networks with adapters between CUDA and the CPU. Their outputs after the removal of the adapters must equal those
// before.
import path from 'node:path'
import { compile } from '../../gpu-fn/compile/compile.ts'
import { compileLora } from '../../gpu-fn/compile/lora/lora.ts'
import { openPipeline } from '../../gpu-fn/engine/package/open-pipeline.ts'
import type { LoraPackage } from '../../gpu-fn/manifest.ts'
import { openLora } from '../../gpu-fn/weights/additions/lora-packages.ts'
import { openPackage } from '../../gpu-fn/weights/packages.ts'
import { computeRelativeError } from '../../infra/bench/statistics.ts'
import { writeTinyCheckpoint } from '../../infra/checkpoints/tiny/checkpoint.ts'
import { makeScratch } from '../../infra/command/scratch.ts'
import type { FloatTensor } from '../support/checkpoints/tensors.ts'
import { computeNetworkOutputs, LORAS } from '../support/lora-outputs.ts'

/** Allowed relative error of an output with adapters, and of their change of it. */
const LIMITS = { output: 8e-2, change: 0.5 }
/** Strong, so that the change exceeds the difference between the devices. */
const SCALE = 4
const NAMES = ['kohya', 'everything', 'kohya-encoders']

type Outputs = Record<string, FloatTensor>
type Series = { base: Outputs; changed: Outputs; restored: Outputs }

/** Prints the errors of every output relative to the CPU. Throws if one is too large, or if the base is not restored exactly. */
export async function compareLoras(target: 'cuda' | 'cuda-fp8'): Promise<void> {
  await using temporary = makeScratch('octet-loras-')
  const scratch = temporary.directory
  const failures: string[] = []
  const checkpoint = [await writeTinyCheckpoint(path.join(scratch, 'checkpoint'), {})]
  const common = { checkpoint, tier: 'fp8', variant: 'custom' } as const
  const packages = { cpu: path.join(scratch, 'cpu'), gpu: path.join(scratch, 'gpu') }
  const { manifest } = await compile({ ...common, target: 'cpu', out: packages.cpu })
  await compile({ ...common, target, out: packages.gpu })
  const loras: LoraPackage[] = []
  for (const name of NAMES) {
    const out = path.join(scratch, name)
    await compileLora({ lora: path.join(LORAS, `${name}.safetensors`), base: manifest, out })
    loras.push(await openLora(out))
  }
  const [cpu, gpu] = [await runSeries(packages.cpu, loras), await runSeries(packages.gpu, loras)]
  for (const name of Object.keys(cpu.base)) {
    const output = errorOf(gpu.changed, cpu.changed, name)
    const change = computeRelativeError(changeOf(gpu, name), changeOf(cpu, name))
    const restored = errorOf(gpu.restored, gpu.base, name)
    const good = output <= LIMITS.output && change <= LIMITS.change && restored === 0
    const figures = `error ${output.toExponential(1)}, of the change ${change.toExponential(1)}, after removal ${restored}`
    console.log(`${good ? ' ' : '✗'} adapters fp8 ${target} ${name}: ${figures}`)
    if (!good) failures.push(name)
  }
  if (failures.length > 0) throw new Error(`adapters on ${target} are wrong: ${failures.join(', ')}`)
}

async function runSeries(directory: string, loras: readonly LoraPackage[]): Promise<Series> {
  const pipeline = await openPipeline(await openPackage(directory))
  try {
    const base = await computeNetworkOutputs(pipeline)
    await pipeline.adapt(loras.map((lora) => ({ lora, scale: SCALE })))
    const changed = await computeNetworkOutputs(pipeline)
    await pipeline.adapt([])
    return { base, changed, restored: await computeNetworkOutputs(pipeline) }
  } finally {
    await pipeline.release()
  }
}

const errorOf = (given: Outputs, expected: Outputs, name: string) =>
  computeRelativeError(given[name]!.data, expected[name]!.data)

const changeOf = ({ base, changed }: Series, name: string): Float32Array =>
  changed[name]!.data.map((value, i) => value - base[name]!.data[i]!)
