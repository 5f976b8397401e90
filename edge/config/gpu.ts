// Slots and time limits of GPU functions: the variables GPU_SLOTS and GPU_*_SECONDS.
import * as z from 'zod'

const MAX_SECONDS = 86_400
const MAX_SLOTS = 100_000
const MAX_SHARING = 16
const MAX_DEVICES = 16

const seconds = z.coerce
  .number()
  .positive()
  .max(MAX_SECONDS)
  .transform((value) => value * 1000)
  .describe(`a number of seconds above 0 and up to ${MAX_SECONDS}`)

export type GpuTimes = {
  /** The longest wait for a GPU to accept the job. */
  startMs: number
  /** The longest silence of a stream. */
  silenceMs: number
  /** The longest run of an attempt, from its start on the GPU; time in the GPU function's queue does not count. */
  runMs: number
  /** The pause before the second attempt. Each later pause is four times as long. */
  retryMs: number
  /** The wait for the preferred endpoint before its fallbacks are tried too. */
  failoverMs: number
}

export const gpuTimes = z
  .object({
    GPU_START_SECONDS: seconds,
    GPU_SILENCE_SECONDS: seconds,
    GPU_RUN_SECONDS: seconds,
    GPU_RETRY_SECONDS: seconds,
    GPU_FAILOVER_SECONDS: seconds,
  })
  .transform(
    (given): GpuTimes => ({
      startMs: given.GPU_START_SECONDS,
      silenceMs: given.GPU_SILENCE_SECONDS,
      runMs: given.GPU_RUN_SECONDS,
      retryMs: given.GPU_RETRY_SECONDS,
      failoverMs: given.GPU_FAILOVER_SECONDS,
    }),
  )

/** `gpus`: the number of an endpoint's GPUs. `sharing`: the number of concurrent jobs per GPU. */
export type GpuSlots = { gpus: number; sharing: number }

export const gpuSlots = z
  .object({
    GPU_SLOTS: z.coerce.number().int().min(1).max(MAX_SLOTS).describe(`a whole number from 1 to ${MAX_SLOTS}`),
    GPU_SHARING: z.coerce.number().int().min(1).max(MAX_SHARING).describe(`a whole number from 1 to ${MAX_SHARING}`),
  })
  .transform(({ GPU_SLOTS, GPU_SHARING }): GpuSlots => ({ gpus: GPU_SLOTS, sharing: GPU_SHARING }))

const devices = z.coerce.number().int().min(1).max(MAX_DEVICES).describe(`a whole number from 1 to ${MAX_DEVICES}`)

/** The GPUs of one GPU function, which can divide the samples of a job's guidance. They count as one GPU of the endpoint. */
export const gpuDevices = z
  .object({ GPU_DEVICES: devices.prefault(1) })
  .transform(({ GPU_DEVICES }): number => GPU_DEVICES)
