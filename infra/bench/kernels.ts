// The rates of the FP8 operators at the sizes of Large, measured in a process with PyTorch, which times work on the device.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { findKernels } from '../../gpu-fn/runtime/fp8-kernels.ts'

const RATES = path.join(import.meta.dirname, 'kernel_rates.py')

export type KernelsOptions = { readonly python: string }

/** Prints the rates. Throws without a supported GPU, the kernels or PyTorch. */
export function benchKernels({ python }: KernelsOptions): void {
  const found = findKernels()
  if (!found.library) throw new Error(`the kernels cannot run on this machine: ${found.reason}`)
  if (spawnSync(python, ['-c', 'import torch']).status !== 0)
    throw new Error(`${python} has no PyTorch; name a Python with PyTorch by --python or OCTET_PYTHON`)
  const { status } = spawnSync(python, [RATES, found.library], { stdio: 'inherit' })
  if (status !== 0) throw new Error(`${RATES} failed`)
}
