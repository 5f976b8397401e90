// The current memory plan of an open package, adapted to the image sizes and ControlNets of its jobs.
import type { ControlnetPackage, Package } from '../../manifest.ts'
import type { Size } from '../../pipeline/pipeline.ts'
import { type PlanLimits, planOf } from './graphs.ts'
import { BudgetError, type MemoryPlan } from './memory-plan.ts'

/** A memory plan, with its ControlNet and maximum image size. */
export type PlannedMemory = { plan: MemoryPlan; size: Size; controlnet: ControlnetPackage | null }

/** Applies a plan. `isSmaller`: its maximum image size is below that of the preceding plan. */
type Apply = (next: PlannedMemory, isSmaller: boolean) => Promise<void>

/** Maximum number of remembered plans, which bounds the memory for callers with many sizes. */
const MAX_PLANS = 64

/**
 * Plans cover the largest image so far, so that alternating sizes do not change the plan. A plan covers a smaller size only if the largest
 * one does not fit together with the ControlNet of a job.
 */
export class CurrentPlan {
  readonly #pkg: Package
  readonly #limits: PlanLimits
  readonly #apply: Apply
  #current: PlannedMemory
  /** False before the first plan and after an error, so that the next job applies its plan. True while a plan is being applied. */
  #isApplied = false
  /** ControlNet of the last job. The plan's ControlNet may stay open for jobs without one. */
  #wanted: ControlnetPackage | null = null
  /** Cache of plans by size and ControlNet: planning takes milliseconds, and jobs request a plan before every step. */
  readonly #next = new Map<string, PlannedMemory>()
  /** The application of the first plan. */
  #started: Promise<void> = Promise.resolve()
  /** The last change. Jobs in a shared step request plans concurrently. */
  #last: Promise<unknown> = Promise.resolve()

  /** Plans for the package's default size. Throws BudgetError. */
  constructor(pkg: Package, limits: PlanLimits, apply: Apply) {
    this.#pkg = pkg
    this.#limits = limits
    this.#apply = apply
    this.#current = this.#plan(pkg.manifest.defaults, null)
  }

  get plan(): MemoryPlan {
    return this.#current.plan
  }

  /** Applies the first plan, for images of this size. A job within this plan does not wait for its application. Throws BudgetError. */
  start(size: Size = this.#pkg.manifest.defaults): Promise<void> {
    this.#current = this.#choose(size, null)
    this.#started = this.#change(this.#current, false)
    return this.#started
  }

  /** The plan for a job with images of this size. Throws BudgetError. */
  next(size: Size, controlnet: ControlnetPackage | null): PlannedMemory {
    const key = `${size.width}x${size.height} ${controlnet?.digest}`
    const found = this.#next.get(key)
    if (found) return found
    const next = this.#choose(size, controlnet)
    if (this.#next.size >= MAX_PLANS) this.#next.clear()
    this.#next.set(key, next)
    return next
  }

  /** Applies the plan for a job; the default ControlNet is that of the last job. Throws BudgetError without any change. */
  use(size: Size, controlnet?: ControlnetPackage | null): Promise<void> {
    const used = this.#last.then(() => this.#use(size, controlnet === undefined ? this.#wanted : controlnet))
    this.#last = used.catch(() => {})
    return used
  }

  async #use(size: Size, controlnet: ControlnetPackage | null): Promise<void> {
    const next = this.next(size, controlnet)
    this.#wanted = controlnet
    const before = this.#current
    if (next === before && this.#isApplied) return
    this.#current = next
    this.#next.clear()
    if (
      this.#isApplied &&
      next.controlnet?.digest === before.controlnet?.digest &&
      JSON.stringify(next.plan) === JSON.stringify(before.plan)
    )
      return
    await this.#started
    await this.#change(next, pixelsOf(next.size) < pixelsOf(before.size))
  }

  async #change(next: PlannedMemory, isSmaller: boolean): Promise<void> {
    this.#isApplied = true
    try {
      await this.#apply(next, isSmaller)
    } catch (error) {
      this.#isApplied = false
      throw error
    }
  }

  #choose(size: Size, controlnet: ControlnetPackage | null): PlannedMemory {
    const current = this.#current
    const isLarger = pixelsOf(size) > pixelsOf(current.size)
    const largest = isLarger ? size : current.size
    if (!isLarger && controlnet?.digest === current.controlnet?.digest) return current
    if (controlnet) return this.#planIfFits(largest, controlnet) ?? this.#planSmaller(size, controlnet)
    const plain = this.#plan(largest, null)
    // The larger image may require the memory of the ControlNet of another job.
    return !isLarger && current.controlnet && isKept(plain.plan, current.plan) ? current : plain
  }

  /** A plan with the memory arena left by larger images, which never shrinks; if that does not fit, a plan without it. */
  #planSmaller(size: Size, controlnet: ControlnetPackage): PlannedMemory {
    const { shared } = this.#current.plan
    return this.#planIfFits(size, controlnet, shared) ?? this.#plan(size, controlnet)
  }

  #plan(size: Size, controlnet: ControlnetPackage | null, shared = 0): PlannedMemory {
    return { plan: planOf(this.#pkg, { ...this.#limits, shared }, size, controlnet), size, controlnet }
  }

  #planIfFits(size: Size, controlnet: ControlnetPackage, shared = 0): PlannedMemory | null {
    try {
      return this.#plan(size, controlnet, shared)
    } catch (error) {
      if (error instanceof BudgetError) return null
      throw error
    }
  }
}

/** The first plan of a package, for a job with images of this size. Throws BudgetError. */
export const createFirstPlan = (
  pkg: Package,
  limits: PlanLimits,
  size: Size,
  controlnet: ControlnetPackage | null,
): PlannedMemory => new CurrentPlan(pkg, limits, async () => {}).next(size, controlnet)

const pixelsOf = ({ width, height }: Size) => width * height

/** Whether `other` has the same tiles and all resident networks of `plan`. */
const isKept = (plan: MemoryPlan, other: MemoryPlan): boolean =>
  plan.tile === other.tile && plan.resident.every((network) => other.resident.includes(network))
