// Time limits for the GPU function: the variables GPU_*_SECONDS of wrangler.toml.
import * as z from 'zod'

const MOST_SECONDS = 86_400
const seconds = z.coerce
  .number()
  .positive()
  .max(MOST_SECONDS)
  .transform((value) => value * 1000)
const variables = z.object({
  GPU_START_SECONDS: seconds,
  GPU_SILENCE_SECONDS: seconds,
  GPU_RUN_SECONDS: seconds,
  GPU_RETRY_SECONDS: seconds,
  GPU_HEDGE_SECONDS: seconds,
})
type Variables = keyof z.infer<typeof variables>

export type GpuTimes = {
  /** The longest wait for a GPU to accept the job. */
  startMs: number
  /** The longest silence of a stream. */
  silenceMs: number
  /** The longest run of an attempt, from its start on the GPU; time in the GPU function's queue does not count. */
  runMs: number
  /** The pause before the second attempt. Each later pause is four times as long. */
  retryMs: number
  /** The failover time: the wait for the preferred endpoint before others are tried too. */
  hedgeMs: number
}

/** Reads the variables, in milliseconds. Throws an Error with the name, value and allowed values of each malformed variable. */
export function readGpuTimes(env: Pick<Env, Variables>): GpuTimes {
  const parsed = variables.safeParse(env)
  if (parsed.success) {
    const { GPU_START_SECONDS, GPU_SILENCE_SECONDS, GPU_RUN_SECONDS, GPU_RETRY_SECONDS, GPU_HEDGE_SECONDS } =
      parsed.data
    return {
      startMs: GPU_START_SECONDS,
      silenceMs: GPU_SILENCE_SECONDS,
      runMs: GPU_RUN_SECONDS,
      retryMs: GPU_RETRY_SECONDS,
      hedgeMs: GPU_HEDGE_SECONDS,
    }
  }
  const wrong = parsed.error.issues.map(({ path: [name] }) => {
    const given = JSON.stringify(env[name as Variables]) ?? 'missing'
    return `${String(name)} is ${given}; it must be a number of seconds above 0 and up to ${MOST_SECONDS}.`
  })
  throw new Error(wrong.join(' '))
}
