// The outbox of usage and webhooks, over the SQLite of an object.
import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, describe, test, vi } from 'vitest'
import { Outbox } from '../../../edge/platform/outbox.ts'

afterEach(() => vi.restoreAllMocks())

const HOUR = 3600_000
type Send = (ids: number[], stop: AbortSignal) => Promise<void>

/** Runs `use` with an outbox of batches of two of these entries. A batch that was sent is due again in an hour. */
async function withOutbox(
  entries: number[],
  { send, concurrency = 1 }: { send: Send; concurrency?: number },
  use: (outbox: Outbox<number[]>, sql: SqlStorage) => Promise<void>,
): Promise<void> {
  await runInDurableObject(env.WEBHOOK.getByName(crypto.randomUUID()), async (_, { storage: { sql } }) => {
    sql.exec('CREATE TABLE entries (id INTEGER PRIMARY KEY, due INTEGER NOT NULL)')
    for (const id of entries) sql.exec('INSERT INTO entries VALUES (?, 0)', id)
    const outbox = new Outbox<number[]>({
      name: 'test',
      take: (sending) => {
        const busy = JSON.stringify(sending.flat())
        const rows = sql.exec<{ id: number }>(
          'SELECT id FROM entries WHERE due <= ? AND id NOT IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT 2',
          ...[Date.now(), busy],
        )
        const ids = rows.toArray().map(({ id }) => id)
        return ids.length === 0 ? null : ids
      },
      send: async (ids, stop) => {
        await send(ids, stop)
        for (const id of ids) sql.exec('UPDATE entries SET due = ? WHERE id = ?', Date.now() + HOUR, id)
      },
      nextDue: () => sql.exec<{ at: number | null }>('SELECT min(due) AS at FROM entries').one().at,
      ...{ concurrency, pauseMs: { first: 10_000, max: 15_000 } },
    })
    await use(outbox, sql)
  })
}

const computeSoon = () => Date.now() + HOUR

describe('an outbox', () => {
  test('sends all due entries in batches, and none again before it is due again', async ({ expect }) => {
    const sent: number[][] = []
    const send = async (ids: number[]) => void sent.push(ids)
    await withOutbox([1, 2, 3], { send }, async (outbox, sql) => {
      await outbox.run(computeSoon())
      await outbox.run(computeSoon())
      expect(sent).toEqual([[1, 2], [3]])
      expect(outbox.nextRun()).toBeGreaterThan(Date.now())
      sql.exec('UPDATE entries SET due = 0 WHERE id = 2')
      await outbox.run(computeSoon())
      expect(sent.at(-1)).toEqual([2])
      sql.exec('DELETE FROM entries')
      expect(outbox.nextRun()).toBe(null)
    })
  })

  test('pauses after each failure, with increasing pauses, and then sends the same entries', async ({ expect }) => {
    const logged = vi.spyOn(console, 'error').mockImplementation(() => {})
    const send = vi.fn<Send>().mockRejectedValueOnce(new Error('away')).mockRejectedValueOnce(new Error('away'))
    vi.spyOn(Math, 'random').mockReturnValue(0.5)
    await withOutbox([1, 2, 3], { send }, async (outbox) => {
      const pauses: number[] = []
      for (const _ of ['first', 'second']) {
        await outbox.run(computeSoon())
        pauses.push(Math.round((outbox.nextRun()! - Date.now()) / 1000))
      }
      expect(send.mock.calls.map(([ids]) => ids)).toEqual([
        [1, 2],
        [1, 2],
      ])
      expect(pauses).toEqual([10, 15])
      expect(logged).toHaveBeenCalledTimes(2)
      await outbox.run(computeSoon())
      expect(send.mock.calls.slice(2).map(([ids]) => ids)).toEqual([[1, 2], [3]])
    })
  })

  test('sends the maximum number of concurrent batches, and aborts them on request', async ({ expect }) => {
    const started: number[][] = []
    const send: Send = (ids, stop) => {
      started.push(ids)
      return new Promise((_, reject) => stop.addEventListener('abort', () => reject(stop.reason)))
    }
    vi.spyOn(console, 'error').mockImplementation(() => {})
    await withOutbox([1, 2, 3, 4, 5], { send, concurrency: 2 }, async (outbox) => {
      const run = outbox.run(computeSoon())
      expect(started).toEqual([
        [1, 2],
        [3, 4],
      ])
      await outbox.stop()
      await run
      expect(started).toHaveLength(2)
    })
  })

  test('begins no batch after the end of its run', async ({ expect }) => {
    const send = vi.fn<Send>().mockResolvedValue()
    await withOutbox([1], { send }, async (outbox) => {
      await outbox.run(Date.now() - 1)
      expect(send).not.toHaveBeenCalled()
      expect(outbox.nextRun()).toBe(0)
    })
  })
})
