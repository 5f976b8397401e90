// Sessions in sequence as one session.
import type { DeviceTensor, RunOptions, Session } from '../../runtime/session.ts'

/** Each session runs on the outputs of the one before it, which stay on the device. */
export function chain(sessions: readonly Session[]): Session {
  const [first, ...others] = sessions as [Session, ...Session[]]
  if (others.length === 0) return first
  const rest = chain(others)
  const runFirst = async <T>(
    inputs: Parameters<Session['run']>[0],
    options: RunOptions | undefined,
    next: (outputs: Record<string, DeviceTensor>) => Promise<T>,
  ): Promise<T> => {
    const outputs = await first.runOnDevice(inputs, { signal: options?.signal })
    try {
      return await next(outputs)
    } finally {
      for (const tensor of Object.values(outputs)) tensor.release()
    }
  }
  return {
    run: (inputs, options) => runFirst(inputs, options, (outputs) => rest.run(outputs, options)),
    runOnDevice: (inputs, options) => runFirst(inputs, options, (outputs) => rest.runOnDevice(outputs, options)),
    async release() {
      for (const session of sessions) await session.release()
    },
  }
}
