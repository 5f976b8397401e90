// The error of a refused checkpoint.
import { CheckpointError } from '../../../gpu-fn/compile/checkpoint/error.ts'

/** The message of the CheckpointError with which `promise` rejects. Throws for any other outcome. */
export async function refusal(promise: Promise<unknown>): Promise<string> {
  const outcome = await promise.then(
    () => 'was accepted',
    (reason: unknown) => reason,
  )
  if (outcome instanceof CheckpointError && outcome.name === 'CheckpointError') return outcome.message
  throw new Error('not refused with a CheckpointError', { cause: outcome })
}
