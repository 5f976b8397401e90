/**
 * Waits until all promises are settled, and returns their results or throws the first error in order. After a failure of `Promise.all`, the
 * other promises could still use what the caller then releases.
 */
export async function settleAll<T extends readonly unknown[] | []>(
  promises: T,
): Promise<{ -readonly [P in keyof T]: Awaited<T[P]> }>
export async function settleAll<T>(promises: Iterable<Promise<T>>): Promise<T[]>
export async function settleAll(promises: Iterable<unknown>): Promise<unknown[]> {
  const results = await Promise.allSettled(promises)
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
