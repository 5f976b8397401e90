// Times of operators on the device, measured in a process with PyTorch.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import * as z from 'zod'
import { requireKernels } from '../step.ts'
import type { Call } from './calls.ts'

const PROGRAM = path.join(import.meta.dirname, 'time_operators.py')
/** The indexes of onnxruntime's functions. */
export const ORT_HEADER = path.join(import.meta.dirname, '../../../gpu-fn/kernels/include/ort.h')

const line = z.union([z.object({ microseconds: z.number() }), z.object({ error: z.string() })])
/** The time of one call, or the reason why there is none. */
export type CallTime = z.infer<typeof line>

/** The library of the FP8 operators. Throws if this machine cannot run it, or if a Python has no PyTorch. */
export function requireTiming(python: string): string {
  const library = requireKernels()
  if (spawnSync(python, ['-c', 'import torch']).status === 0) return library
  throw new Error(`${python} has no PyTorch; name a Python with PyTorch by --python or OCTET_PYTHON`)
}

/** Times each call by itself. Throws without a supported GPU, the kernels or PyTorch, and after `seconds`. */
export function timeCalls(python: string, calls: readonly Call[], seconds = 300): CallTime[] {
  const library = requireTiming(python)
  const input = JSON.stringify({ library, header: ORT_HEADER, calls })
  const { status, signal, stdout } = spawnSync(python, [PROGRAM], {
    input,
    timeout: seconds * 1000,
    encoding: 'utf8',
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const times = stdout.split('\n').flatMap((text) => (text.startsWith('{') ? [line.parse(JSON.parse(text))] : []))
  if (times.length === calls.length) return times
  throw new Error(`${PROGRAM} timed ${times.length} of ${calls.length} calls and ended with ${status ?? signal}`)
}
