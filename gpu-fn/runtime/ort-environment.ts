// onnxruntime's environment, one per process, and the arena that its sessions share.
import type { OrtApi, Pointer } from './ort-api.ts'

// onnxruntime's OrtLoggingLevel, OrtAllocatorType, OrtMemType and ArenaExtendStrategy
/** Errors are thrown, so onnxruntime does not print them. */
export const FATAL_ONLY = 4
const DEVICE_ALLOCATOR = 0
const DEFAULT_MEMORY = 0
const SAME_AS_REQUESTED = 1n

let environment: Pointer | undefined
/** GPUs with an arena. */
const shared = new Set<number>()

/** The environment, created on first use. Throws onnxruntime's error. */
export function environmentOf(api: OrtApi): Pointer {
  environment ??= api.make('CreateEnv', FATAL_ONLY, 'octet')
  return environment
}

/**
 * Makes all sessions on a GPU use one arena for their runs, which do not overlap. The CUDA provider must be loaded: without it onnxruntime
 * ends the process here. Throws onnxruntime's error.
 */
export function shareArena(api: OrtApi, device: number): void {
  if (shared.has(device)) return
  const configuration = api.make('CreateArenaCfgV2', ['arena_extend_strategy'], BigUint64Array.of(SAME_AS_REQUESTED), 1)
  const provider = ['CUDAExecutionProvider', memoryOf(api, 'Cuda', device), configuration]
  const options = [['device_id'], [String(device)], 1]
  try {
    api.call('CreateAndRegisterAllocatorV2', environmentOf(api), ...provider, ...options)
  } catch (error) {
    // Another thread of this process has already registered it.
    if (!/already been registered/.test(String(error))) throw error
  } finally {
    api.release('ArenaCfg', configuration)
  }
  shared.add(device)
}

/** The host's memory, or that of a GPU. */
export const memoryOf = (api: OrtApi, name: 'Cpu' | 'Cuda', device = 0): Pointer =>
  api.make('CreateMemoryInfo', name, DEVICE_ALLOCATOR, device, DEFAULT_MEMORY)
