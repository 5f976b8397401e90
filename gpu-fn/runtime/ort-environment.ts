// onnxruntime's environment, one per process, and the arena that its sessions share.
import type { OrtApi, Pointer } from './ort-api.ts'

// onnxruntime's OrtLoggingLevel, OrtAllocatorType, OrtMemType and ArenaExtendStrategy
/** Errors are thrown, so onnxruntime does not print them. */
export const FATAL_ONLY = 4
const DEVICE_ALLOCATOR = 0
const DEFAULT_MEMORY = 0
const SAME_AS_REQUESTED = 1n
const CUDA_DEVICE = 0

let environment: Pointer | undefined
let shared = false

/** The environment, created on first use. Throws onnxruntime's error. */
export function environmentOf(api: OrtApi): Pointer {
  environment ??= api.make('CreateEnv', FATAL_ONLY, 'octet')
  return environment
}

/**
 * Makes all sessions on the GPU use one arena for their runs, which do not overlap. The CUDA provider must be loaded: without it onnxruntime
 * ends the process here. Throws onnxruntime's error.
 */
export function shareArena(api: OrtApi): void {
  if (shared) return
  const configuration = api.make('CreateArenaCfgV2', ['arena_extend_strategy'], BigUint64Array.of(SAME_AS_REQUESTED), 1)
  const provider = ['CUDAExecutionProvider', memoryOf(api, 'Cuda'), configuration]
  const options = [['device_id'], [String(CUDA_DEVICE)], 1]
  try {
    api.call('CreateAndRegisterAllocatorV2', environmentOf(api), ...provider, ...options)
  } catch (error) {
    // Another thread of this process has already registered it.
    if (!/already been registered/.test(String(error))) throw error
  } finally {
    api.release('ArenaCfg', configuration)
  }
  shared = true
}

export const memoryOf = (api: OrtApi, name: 'Cpu' | 'Cuda'): Pointer =>
  api.make('CreateMemoryInfo', name, DEVICE_ALLOCATOR, CUDA_DEVICE, DEFAULT_MEMORY)
