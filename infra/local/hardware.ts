// Chooses the compilation target for this machine and prepares what it requires: onnxruntime's CUDA provider and the kernels.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { showProgress } from '../../gpu-fn/compile/progress.ts'
import { describeVisibleDevices, type Gpu, listGpus } from '../../gpu-fn/engine/device.ts'
import type { Target } from '../../gpu-fn/manifest.ts'
import { NATIVE_LIBRARY } from '../../gpu-fn/runtime/native.ts'
import { CUDA_PROVIDER, hasProvider, installProvider, libraryDirectoryOf, WHEEL } from '../docker/cuda-provider.ts'
import { ROOT } from './models/package-cache.ts'

const RUNTIME = path.join(ROOT, 'node_modules/onnxruntime-node')
const KERNELS = path.join(ROOT, 'gpu-fn/kernels')
const BUILD = path.join(KERNELS, 'build')
const NO_KERNELS =
  'Warning: neither the kernels (gpu-fn/kernels/dist) nor nvcc are installed; FP8 weights are multiplied in 16 bits.'
const FAILED_KERNELS =
  'Warning: the kernels were not built; FP8 weights are multiplied in 16 bits. NVCC, CUDA_HOME and CUDA_LIBRARIES name the locations of CUDA 13 (gpu-fn/kernels/build).'
/** The architectures of `gpu-fn/kernels/build`. Code for 9.0, 10.0 and 12.0 runs on all GPUs with the same first number. */
const ARCHITECTURES: readonly number[] = [89, 90, 100, 120]
/** The least compute capability of a target: Ada multiplies in FP8, Ampere has bfloat16 products. */
const CAPABILITY = { 'cuda-fp8': 8.9, cuda: 8.0 } as const

/** The fastest target that all GPUs support, and the reason. */
export function chooseTarget(gpus: readonly Gpu[]): { target: Target; reason: string } {
  const [weakest] = gpus.toSorted((a, b) => a.capability - b.capability)
  if (!weakest) return { target: 'cpu', reason: `nvidia-smi lists no GPU${describeVisibleDevices()}` }
  const reason = `${weakest.name} has compute capability ${weakest.capability.toFixed(1)}`
  if (weakest.capability >= CAPABILITY['cuda-fp8']) return { target: 'cuda-fp8', reason }
  if (weakest.capability >= CAPABILITY.cuda) return { target: 'cuda', reason }
  return { target: 'cpu', reason: `${reason}; the CUDA targets need ${CAPABILITY.cuda.toFixed(1)}` }
}

/**
 * The target to serve with. Warns if the CPU serves although there is a GPU. For a CUDA target, adds the provider and builds the addon and
 * the kernels. Throws with advice if the provider cannot be added or the addon cannot be built.
 */
export async function prepareHardware(requested: Target | undefined, wheel: string | undefined): Promise<Target> {
  const gpus = await listGpus()
  const chosen = chooseTarget(gpus)
  const target = requested ?? chosen.target
  console.error(`Target ${target}${requested ? ', as requested' : `: ${chosen.reason}`}`)
  if (target === 'cpu' && gpus.length > 0)
    console.error(`Warning: the CPU serves, although this machine has ${gpus[0]!.name}.`)
  if (target === 'cpu') return target
  await addProvider(wheel)
  assertLibraries(findMissingLibraries(path.join(libraryDirectoryOf(RUNTIME), CUDA_PROVIDER)))
  if (target === 'cuda-fp8') buildKernels(gpus)
  buildAddon()
  return target
}

/** The dependencies of `library` that the loader does not find, from `ldd`; empty if `ldd` is missing. */
export function findMissingLibraries(library: string): string[] {
  const { stdout } = spawnSync('ldd', [library], { encoding: 'utf8' })
  return (stdout ?? '').split('\n').flatMap((line) => {
    const [name, found] = line.trim().split(' => ')
    return found === 'not found' ? [name!] : []
  })
}

/** Throws with advice if libraries are missing, which onnxruntime would report only after the compilation. */
export function assertLibraries(missing: readonly string[]): void {
  if (missing.length === 0) return
  throw new Error(
    `the CUDA provider needs ${missing.join(', ')}, which this machine lacks or the loader does not find\nInstall CUDA 13 and cuDNN 9, or add their directories to LD_LIBRARY_PATH; or serve from the CPU with --target cpu.`,
  )
}

async function addProvider(wheel: string | undefined): Promise<void> {
  if (hasProvider(RUNTIME)) return
  console.error("Adding onnxruntime's CUDA provider, 202 MB")
  const progress = showProgress()
  const onProgress = (done: number, total: number) => progress.update(done, total, 'CUDA provider')
  await installProvider(RUNTIME, { wheel, onProgress })
    .catch((cause: Error) => {
      const advice = `Download ${WHEEL} from PyPI elsewhere and pass it as --provider FILE, or serve from the CPU with --target cpu.`
      throw new Error(`the CUDA provider cannot be added: ${cause.message}\n${advice}`, { cause })
    })
    .finally(progress.stop)
}

/** The architectures of `gpu-fn/kernels/build` for these GPUs; empty, for all of them, if one of the GPUs has another. */
export function architecturesOf(gpus: readonly Gpu[]): string[] {
  const needed = gpus.map(({ capability }) => (capability < 9 ? capability * 10 : Math.floor(capability) * 10))
  return needed.every((each) => ARCHITECTURES.includes(each)) ? [...new Set(needed)].map(String) : []
}

/** Builds the kernels if there is no library yet and CUDA's compiler is installed. Without them, packages run as for `cuda`. */
function buildKernels(gpus: readonly Gpu[]): void {
  if (existsSync(path.join(KERNELS, 'dist/liboctet-kernels.so'))) return
  if (spawnSync('nvcc', ['--version'], { stdio: 'ignore' }).status !== 0) {
    console.error(NO_KERNELS)
    return
  }
  console.error('Building the kernels for this GPU (under a minute)')
  const { status } = spawnSync(BUILD, architecturesOf(gpus), { stdio: 'inherit' })
  if (status !== 0) console.error(FAILED_KERNELS)
}

/** Builds the addon required by CUDA targets, unless it was built with the kernels. */
function buildAddon(): void {
  if (existsSync(NATIVE_LIBRARY)) return
  console.error('Building the addon (under a minute)')
  const { status } = spawnSync(BUILD, ['addon'], { stdio: 'inherit' })
  if (status !== 0)
    throw new Error('CUDA targets require the addon (gpu-fn/native); to serve from the CPU instead, use --target cpu')
}
