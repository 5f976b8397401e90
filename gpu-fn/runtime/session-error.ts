/** onnxruntime refused a graph or a run; the message names the file and says why. */
export class SessionError extends Error {
  override name = 'SessionError' as const
}

/** Runs `action`; what it throws becomes a SessionError that begins with `what`. */
export async function failingWith<T>(what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action()
  } catch (cause) {
    throw new SessionError(`${what}: ${cause instanceof Error ? cause.message : cause}`, { cause })
  }
}
