// What the GPU checks need from the machine.
import path from 'node:path'
import { describeVisibleDevices, listGpus } from '../../gpu-fn/engine/device.ts'
import { findKernels } from '../../gpu-fn/runtime/fp8-kernels.ts'
import { hasProvider } from '../../infra/docker/cuda-provider.ts'

const RUNTIME = path.join(import.meta.dirname, '../../node_modules/onnxruntime-node')

/** Throws with a list of everything that is missing, each with its remedy. */
export async function requireGpu(): Promise<void> {
  const [gpu] = await listGpus()
  const missing: string[] = []
  if (!gpu) missing.push(`an NVIDIA GPU with its driver: nvidia-smi lists none${describeVisibleDevices()}`)
  if (!hasProvider(RUNTIME))
    missing.push('the CUDA provider: node infra/docker/cuda-provider.ts node_modules/onnxruntime-node')
  const { reason } = findKernels()
  if (reason !== null) missing.push(`the kernels: ${reason}`)
  if (missing.length > 0) throw new Error(['these checks need', ...missing.map((each) => `  - ${each}`)].join('\n'))
  console.log(`GPU: ${gpu!.name}`)
}
