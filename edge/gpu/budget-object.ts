// GpuBudgetDO: today's GPU time (UTC) across all accounts and endpoints, and the reservations of attempts in progress.
import { DurableObject } from 'cloudflare:workers'
import type { GpuBudget } from '../config/gpu-budget.ts'
import { configOf } from '../config.ts'
import { log } from '../platform/log.ts'
import { DAY_MS } from '../platform/units.ts'
import type { Room } from './budget.ts'
import { type BudgetReport, chooseLaterDay, dayOf } from './readiness.ts'

const SCHEMA = 'CREATE TABLE IF NOT EXISTS runs (job TEXT PRIMARY KEY, since INTEGER NOT NULL) STRICT'

type SpentTime = { day: string; ms: number }

export class GpuBudgetDO extends DurableObject<Env> {
  readonly #sql: SqlStorage

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#sql.exec(SCHEMA)
  }

  /** Reserves `runMs` for an attempt of the job; see `Room`. */
  reserve(job: string): Room {
    const budget = this.#budget()
    if (!budget) return 'reserved'
    return this.ctx.storage.transactionSync(() => {
      const now = Date.now()
      // An earlier reservation of the job remains if a reset of the job's object ended the attempt.
      this.#end(job, this.#sinceOf(job), now)
      this.#expire(budget, now)
      const free = budget.dailyMs - this.#spent(now)
      if (free < budget.runMs) return 'exhausted'
      if (free < budget.runMs * (this.#reserved() + 1)) return 'busy'
      this.#sql.exec('INSERT INTO runs VALUES (?, ?)', job, now)
      return 'reserved'
    })
  }

  /** Ends a reservation: the time since `accepted` (Unix milliseconds) is spent, or none. A repeat changes nothing. */
  settle(job: string, accepted: number | null): void {
    this.ctx.storage.transactionSync(() => {
      if (this.#sinceOf(job) !== null) this.#end(job, accepted, Date.now())
    })
  }

  /** Spends time without a reservation. False if the ceiling does not cover it. */
  spend(ms: number): boolean {
    const budget = this.#budget()
    const now = Date.now()
    if (budget && budget.dailyMs - this.#spent(now) - this.#reserved() * budget.runMs < ms) return false
    this.#add(ms, now)
    return true
  }

  isExhausted(): boolean {
    const budget = this.#budget()
    return budget !== null && budget.dailyMs - this.#spent(Date.now()) < budget.runMs
  }

  report(): BudgetReport | null {
    const budget = this.#budget()
    if (!budget) return null
    return {
      daily_seconds: budget.dailyMs / 1000,
      spent_seconds: this.#spent(Date.now()) / 1000,
      reserved_seconds: (this.#reserved() * budget.runMs) / 1000,
    }
  }

  #budget(): GpuBudget | null {
    return configOf(this.env).gpuBudget
  }

  #spent(now: number): number {
    const spent = this.ctx.storage.kv.get<SpentTime>('spent')
    return spent && spent.day === chooseLaterDay(spent.day, now) ? spent.ms : 0
  }

  #add(ms: number, now: number): void {
    const day = chooseLaterDay(this.ctx.storage.kv.get<SpentTime>('spent')?.day ?? dayOf(now), now)
    this.ctx.storage.kv.put('spent', { day, ms: this.#spent(now) + ms } satisfies SpentTime)
  }

  #reserved(): number {
    return this.#sql.exec<{ runs: number }>('SELECT count(*) AS runs FROM runs').one().runs
  }

  #sinceOf(job: string): number | null {
    return this.#sql.exec<{ since: number }>('SELECT since FROM runs WHERE job = ?', job).toArray()[0]?.since ?? null
  }

  /** Deletes a reservation and spends the time from `since` to `now`, without the part before midnight. */
  #end(job: string, since: number | null, now: number): void {
    this.#sql.exec('DELETE FROM runs WHERE job = ?', job)
    const midnight = now - (now % DAY_MS)
    if (since !== null) this.#add(Math.max(0, now - Math.max(since, midnight)), now)
  }

  /** Ends reservations whose settlement was lost: they are older than any attempt. Each counts in full. */
  #expire({ runMs }: GpuBudget, now: number): void {
    const longest = configOf(this.env).gpuTimes.startMs + 2 * runMs
    const jobs = this.#sql.exec<{ job: string }>('SELECT job FROM runs WHERE since < ?', now - longest).toArray()
    for (const { job } of jobs) {
      this.#end(job, now - runMs, now)
      log('warn', 'a reservation of GPU time expired', { job })
    }
  }
}
