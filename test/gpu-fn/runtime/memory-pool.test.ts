import { describe, expect, test } from 'vitest'
import { createMemoryPool, type Pieces } from '../../../gpu-fn/runtime/memory-pool.ts'

/** A fake driver with memory for this number of pieces of 16 bytes and the errors of the real one. */
function createDriver(room: number) {
  const created = new Set<bigint>()
  const mapped = new Map<bigint, bigint>()
  let next = 1n
  const pieces: Pieces = {
    bytes: 16,
    create() {
      if (created.size === room) throw new Error('CUDA: out of memory')
      created.add(next)
      return next++
    },
    free(handle) {
      if (!created.delete(handle) || [...mapped.values()].includes(handle)) throw new Error('not to be freed')
    },
    map(address, handle) {
      if (mapped.has(address) || !created.has(handle)) throw new Error('not to be mapped')
      mapped.set(address, handle)
    },
    unmap(address) {
      if (!mapped.delete(address)) throw new Error('not mapped')
    },
  }
  return { pieces, created, mapped }
}

describe('a pool of device memory', () => {
  test('reuses the pieces of a freed range, and requests the rest from the driver', () => {
    const { pieces, created, mapped } = createDriver(5)
    const pool = createMemoryPool(pieces)
    const first = pool.map(0n, 48)
    expect([...mapped.keys()]).toEqual([0n, 16n, 32n])
    first.recycle()
    expect(mapped.size).toBe(0)
    expect(created.size).toBe(3)
    pool.map(1000n, 80)
    expect([...mapped.keys()]).toEqual([1000n, 1016n, 1032n, 1048n, 1064n])
    expect(new Set(mapped.values()).size).toBe(5)
  })

  test('returns all idle pieces together with the freed ones', () => {
    const { pieces, created, mapped } = createDriver(5)
    const pool = createMemoryPool(pieces)
    const [kept, left, freed] = [pool.map(0n, 32), pool.map(100n, 32), pool.map(200n, 16)]
    left.recycle()
    freed.free()
    expect(created.size).toBe(2)
    expect([...mapped.keys()]).toEqual([0n, 16n])
    kept.free()
    kept.free()
    expect(created.size).toBe(0)
  })

  test('maps nothing if not all pieces fit, and then serves a smaller request', () => {
    const { pieces, created, mapped } = createDriver(3)
    const pool = createMemoryPool(pieces)
    pool.map(0n, 16)
    expect(() => pool.map(100n, 64)).toThrow('CUDA: out of memory')
    expect([...mapped.keys()]).toEqual([0n])
    pool.map(200n, 32)
    expect(created.size).toBe(3)
  })

  test('leaks no piece after a failed mapping', () => {
    const { pieces, created, mapped } = createDriver(2)
    const pool = createMemoryPool(pieces)
    pool.map(16n, 16)
    expect(() => pool.map(0n, 32)).toThrow('CUDA: out of memory')
    expect(() => pool.map(16n, 16)).toThrow('not to be mapped')
    expect(mapped.size).toBe(1)
    expect(pool.map(32n, 16)).toBeDefined()
    expect(created.size).toBe(2)
  })
})
