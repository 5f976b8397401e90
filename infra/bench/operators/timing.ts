// Operator times on the device, measured by a child process with PyTorch.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { text } from 'node:stream/consumers'
import * as z from 'zod'
import { endWithThis } from '../../command/child-process.ts'
import { requireKernels } from '../step.ts'
import type { Call } from './calls.ts'

const PROGRAM = path.join(import.meta.dirname, 'time_operators.py')
/** Header of onnxruntime's C API, for the order of its functions. */
export const ORT_HEADER = path.join(
  import.meta.dirname,
  '../../../gpu-fn/native/vendor/onnxruntime/onnxruntime_c_api.h',
)

const line = z.union([z.object({ microseconds: z.number() }), z.object({ error: z.string() })])
/** Time of one call, or the error of its measurement. */
export type CallTime = z.infer<typeof line>

/** Path of the FP8 operator library. Throws if this machine does not support it, or if `python` has no PyTorch. */
export function requireTiming(python: string): string {
  const library = requireKernels()
  if (spawnSync(python, ['-c', 'import torch']).status === 0) return library
  throw new Error(`${python} has no PyTorch; set --python or OCTET_PYTHON to a Python with PyTorch`)
}

/** Times each call individually. Throws if a supported GPU, the kernels or PyTorch is missing, and after a timeout of `seconds`. */
export async function timeCalls(python: string, calls: readonly Call[], seconds = 300): Promise<CallTime[]> {
  const library = requireTiming(python)
  const input = JSON.stringify({ library, header: ORT_HEADER, calls })
  const child = endWithThis(
    spawn(python, [PROGRAM], { timeout: seconds * 1000, killSignal: 'SIGKILL', stdio: ['pipe', 'pipe', 'inherit'] }),
  )
  // Ignores errors of the input stream: the number of results below reveals an early exit of the program.
  child.stdin.on('error', () => {}).end(input)
  const [stdout, [status, signal]] = await Promise.all([text(child.stdout), once(child, 'close')])
  const times = stdout.split('\n').flatMap((each) => (each.startsWith('{') ? [line.parse(JSON.parse(each))] : []))
  if (times.length === calls.length) return times
  throw new Error(`${PROGRAM} timed ${times.length} of ${calls.length} calls and ended with ${status ?? signal}`)
}
