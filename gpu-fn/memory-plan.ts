// Which networks of a package stay open between jobs and which come and go, so that all fits a budget of device memory.
import { type Manifest, NETWORKS, type NetworkName, T5_GRAPHS } from './compile/manifest.ts'

/** Bytes of the device's memory that a network takes while it is open. */
export type Need = {
  network: NetworkName
  weights: number /** Activations and scratch of its largest run. */
  work: number
}

export type MemoryPlan = {
  /** Bytes; null is no budget. */
  budget: number | null
  kept: NetworkName[]
  /** Opened when a job needs them. One at a time is open. */
  comeAndGo: NetworkName[]
  /** Side of the autoencoder's tiles in latents; null decodes in one piece. */
  tile: number | null
  /** The most that is in use at a time, in bytes. */
  peak: number
  /** Weights that a job of one image reads again, in bytes. */
  reread: number
}

/** No plan fits the budget; the message says what is needed. */
export class BudgetError extends Error {
  override name = 'BudgetError' as const
}

/** Sides of tiles that are tried, largest first. Smaller ones show. */
const TILES = [null, 128, 96, 64, 48, 32] as const
const MIB = 2 ** 20

/**
 * The CUDA context with the libraries' kernels and workspaces, and what each open session adds, as measured on an H100. The CPU has
 * neither.
 */
const OVERHEAD: Record<'cpu' | 'gpu', { process: number; session: number }> = {
  cpu: { process: 0, session: 0 },
  gpu: { process: 700 * MIB, session: 24 * MIB },
}
/** Steps whose modulation is computed at once. */
const STEPS = 50
const TEXT_TOKENS = 77 + 512

type Size = { width: number; height: number }
type About = Pick<Manifest, 'target' | 'files' | 'networks' | 'latent' | 'position'>

/**
 * Chooses what to keep so that a job reads as few weights again as possible; the autoencoder decodes in tiles only where it must.
 * `widening` is the size of a weight in memory beside that in its file. Throws `BudgetError`.
 */
export function planMemory(manifest: About, size: Size, budget: number | null, widening = 1): MemoryPlan {
  const { process, session } = OVERHEAD[manifest.target === 'cpu' ? 'cpu' : 'gpu']
  let least = Number.POSITIVE_INFINITY
  for (const tile of TILES) {
    const side = tile === null ? null : tile * manifest.latent.downsample
    if (side !== null && side >= Math.max(size.width, size.height)) continue
    const tiled = side === null ? size : { width: Math.min(side, size.width), height: Math.min(side, size.height) }
    const needs = needsOf(manifest, size, tiled, widening)
    const plans = subsets(needs).map((kept) => {
      const others = needs.filter((need) => !kept.includes(need))
      const peak =
        process + sum(kept, (need) => held(need) + session) + Math.max(0, ...others.map((n) => held(n) + session))
      // One that has no other to make way for stays open as well.
      return { kept, others, peak, reread: others.length > 1 ? sum(others, ({ weights }) => weights) : 0 }
    })
    least = Math.min(least, ...plans.map(({ peak }) => peak))
    const fitting = plans.filter(({ peak }) => budget === null || peak <= budget)
    const best = fitting.sort((a, b) => a.reread - b.reread || a.others.length - b.others.length || a.peak - b.peak)[0]
    if (!best) continue
    const names = (each: readonly Need[]) => each.map(({ network }) => network)
    return { budget, tile, peak: best.peak, reread: best.reread, kept: names(best.kept), comeAndGo: names(best.others) }
  }
  throw new BudgetError(
    `${size.width}x${size.height} needs ${gigabytes(least)} of device memory at least; the budget is ${gigabytes(budget!)}`,
  )
}

const held = ({ weights, work }: Need) => weights + work
const sum = <T>(values: readonly T[], of: (value: T) => number) => values.reduce((total, value) => total + of(value), 0)
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`

function subsets(needs: readonly Need[]): Need[][] {
  return Array.from({ length: 2 ** needs.length }, (_, bits) => needs.filter((_, i) => (bits >> i) & 1))
}

/** What every network of a package needs for images of a size that are decoded in tiles of another. */
function needsOf(manifest: About, size: Size, tile: Size, widening: number): Need[] {
  const work = workOf(manifest, size, tile)
  return NETWORKS.filter((network) => manifest.networks[network]).map((network) => ({
    network,
    weights: (manifest.files[`${network}.weights`]?.bytes ?? 0) * widening,
    work: work(network),
  }))
}

/** Estimates from the sizes of the largest tensors that live at once; an arena's rounding is in the factors. */
function workOf({ target, networks, latent, position }: About, size: Size, tile: Size) {
  const value = target === 'cpu' ? 4 : 2
  const { downsample, patch_size } = latent
  const tokens = (size.width / (downsample * patch_size)) * (size.height / (downsample * patch_size)) + TEXT_TOKENS
  // Where weights are widened before each product, one of the largest is there twice.
  const widened = 4 * position.width ** 2 * value
  const modulation = networks.conditioning?.outputs.find(({ name }) => name === 'modulation')?.shape.at(-1)
  return (network: NetworkName): number => {
    switch (network) {
      case 'transformer':
        return tokens * position.width * value * 24 + widened + 128 * MIB * (target === 'cpu' ? 0 : 1)
      case 'vae_decoder':
        return tile.width * tile.height * value * 1024
      case 'conditioning':
        return STEPS * Number(modulation ?? 0) * (value + 12)
      default:
        return (T5_GRAPHS as readonly string[]).includes(network) && target !== 'cpu' ? 400 * MIB : 64 * MIB
    }
  }
}

/** For a log: what stays, what comes and goes, and at what price. */
export function describePlan({ kept, comeAndGo, tile, peak, reread, budget }: MemoryPlan): Record<string, unknown> {
  return {
    ...{ kept, come_and_go: comeAndGo, decode: tile === null ? 'whole' : `tiles of ${tile} latents` },
    ...{
      peak: gigabytes(peak),
      reread_per_job: gigabytes(reread),
      budget: budget === null ? 'none' : gigabytes(budget),
    },
  }
}
