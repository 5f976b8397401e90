// The division of a package's networks into resident and offloaded ones, within a memory budget.
import { type ControlnetManifest, IMAGE_ENCODER, type Manifest, type NetworkName, type Target } from '../../manifest.ts'
import { STEPS_AT_ONCE } from '../../pipeline/conditions.ts'
import type { Size } from '../../pipeline/pipeline.ts'

/** Device memory of a network in bytes. `workspace`: activations and scratch of its largest run. */
type Need = { network: NetworkName; weights: number; workspace: number }

export type MemoryPlan = {
  /** Bytes; null is no budget. */
  budget: number | null
  /** Networks whose weights stay on the device. */
  resident: NetworkName[]
  /** Networks whose weights are on the device during their runs only, one network at a time. */
  offloaded: NetworkName[]
  /** Side of the autoencoder's tiles in latents; null decodes the image in one piece. */
  tile: number | null
  /** Maximum memory in use at a time, in bytes. */
  peak: number
  /** The part of `peak` that all open packages of the process share, in bytes. */
  shared: number
  /** Weights that each job loads again, in bytes. */
  reread: number
  /** The part of `peak` for repeating runs of the step graph as CUDA graphs, in bytes; 0 if they are ordinary runs. */
  captures: number
}

/** No plan fits the budget; the message states the bytes needed. */
export class BudgetError extends Error {
  override name = 'BudgetError' as const
}

/** Sides of tiles, in order of preference. Seams are visible with smaller ones. */
const TILES = [null, 128, 96, 64, 48, 32] as const
const MIB = 2 ** 20

/**
 * Device memory besides weights and runs: the CUDA context with the libraries' kernels, and the handles and workspaces of each session.
 * On an H200 they were 560 MiB for the first session of a process and 70 MiB for each further session.
 */
const OVERHEAD = { process: 600 * MIB, session: 72 * MIB }
/** Up to eight CUDA graphs of a step, with the buffers of their inputs and outputs. An estimate. */
const CAPTURES = 256 * MIB
/** Activations of the denoiser, in multiples of its residual stream; fewer with our operators, which are fused. Measured on the same GPU. */
const STREAMS: Record<Target, number> = { cpu: 24, cuda: 30, 'cuda-fp8': 16 }
const TEXT_TOKENS = 77 + 512
const AUTOENCODER: readonly NetworkName[] = ['vae_decoder', IMAGE_ENCODER]
/** Workspace of a text encoder on a GPU; long: more than `LONG_PROMPT` tokens. */
const ENCODER_WORKSPACE = { short: 64 * MIB, long: 400 * MIB }
const LONG_PROMPT = 128

type PlannedManifest = Pick<Manifest, 'files' | 'networks' | 'latent' | 'position' | 'text'>
type PlannedControlnet = Pick<ControlnetManifest, 'files' | 'networks' | 'shape'>
/** The execution of a package on this machine. */
export type Execution = {
  /** Target of the step graph in use. */
  target: Target
  /** Maximum number of samples in one run of the step graph: two if guidance runs in one batch. */
  samples: number
  /** Number of jobs that may share a run. Their sizes are limited (batch-limit.ts), so that only their conditions take more memory. */
  sharing?: number | undefined
  /** Minimum memory shared by all packages on a GPU, such as the memory arena after larger images; in bytes, 0 by default. */
  shared?: number | undefined
  /** Capture runs of the step graph as CUDA graphs, if all networks of a job are resident and the memory suffices. */
  capture?: boolean | undefined
  /** Size of a weight in memory relative to its size in the file. */
  widening: number
  /** The ControlNet of the package's jobs, and the size of its weights in memory relative to its file. */
  controlnet?: { manifest: PlannedControlnet; widening: number } | undefined
}
type Candidate = { resident: Need[]; offloaded: Need[]; peak: number; shared: number; reread: number }
type PlanWithoutCaptures = Omit<MemoryPlan, 'captures'>

/**
 * Chooses the resident networks so that a job rereads as few weights as possible; the autoencoder decodes in tiles only if necessary.
 * Throws `BudgetError`.
 */
export function planMemory(manifest: PlannedManifest, size: Size, budget: number | null, how: Execution): MemoryPlan {
  let min = Number.POSITIVE_INFINITY
  for (const tile of TILES) {
    const side = tile === null ? null : tile * manifest.latent.downsample
    if (side !== null && side >= Math.max(size.width, size.height)) continue
    const tiled = side === null ? size : { width: Math.min(side, size.width), height: Math.min(side, size.height) }
    const beside = how.controlnet ? measureMemoryBesideControlnet(manifest, how.controlnet.manifest, size, how) : 0
    const needs = [...needsOf(manifest, size, tiled, how), ...needsOfControlnet(manifest, size, how)]
    const candidates = listCandidates(needs, how).map((each) => ({ ...each, peak: each.peak + beside }))
    min = Math.min(min, ...candidates.map(({ peak }) => peak))
    const best = bestOf(candidates.filter(({ peak }) => budget === null || peak <= budget))
    if (!best) continue
    const plan = { budget, tile, ...best, resident: namesOf(best.resident), offloaded: namesOf(best.offloaded) }
    const captures = measureCaptures(manifest, size, plan, how)
    return { ...plan, peak: plan.peak + captures, captures }
  }
  throw new BudgetError(
    `${size.width}x${size.height} needs at least ${formatGigabytes(min)} of device memory; the budget is ${formatGigabytes(budget!)}`,
  )
}

/**
 * Memory of captured runs, whose memory arena is that of one session: its addresses are part of the graphs. 0 if it exceeds the budget, or if
 * networks of a job are offloaded.
 */
function measureCaptures(
  manifest: PlannedManifest,
  size: Size,
  { budget, peak, offloaded }: PlanWithoutCaptures,
  how: Execution,
): number {
  if (!how.capture || how.target !== 'cuda-fp8' || offloaded.some((network) => network !== IMAGE_ENCODER)) return 0
  const bytes = workspaceOfStep(manifest, size, how) + CAPTURES
  return budget === null || peak + bytes <= budget ? bytes : 0
}

function listCandidates(needs: readonly Need[], how: Execution): Candidate[] {
  const peakOf = how.target === 'cpu' ? computePeakOnCpu : computePeakOnGpu(how.shared)
  // Few jobs have an input image, so its encoder is opened by the first one, and is not part of what each job reads.
  const usual = needs.filter(({ network }) => network !== IMAGE_ENCODER)
  return listSubsets(usual, how).map((resident) => {
    const offloaded = usual.filter((need) => !resident.includes(need))
    // A single offloaded network shares its memory with no other, so it is never unloaded.
    const reread = offloaded.length > 1 ? sum(offloaded, ({ weights }) => weights) : 0
    const all = needs.filter((need) => !resident.includes(need))
    return { resident, offloaded: all, ...peakOf(resident, all), reread }
  })
}

const bestOf = (candidates: Candidate[]): Candidate | undefined =>
  candidates.sort((a, b) => a.reread - b.reread || a.offloaded.length - b.offloaded.length || a.peak - b.peak)[0]

const namesOf = (needs: readonly Need[]) => needs.map(({ network }) => network)
const computeTotal = ({ weights, workspace }: Need) => weights + workspace
const maxOf = (needs: readonly Need[], of: (need: Need) => number) => Math.max(0, ...needs.map(of))

export type Peak = Pick<MemoryPlan, 'peak' | 'shared'>

/** The sessions that a ControlNet adds: its two networks, and the package's two graphs for it. */
const CONTROLNET_SESSIONS = 4

/** Memory of a package without weights on the device: its open sessions. */
export const memoryOfSessions = ({ networks }: Pick<Manifest, 'networks'>, hasControlnet: boolean): number =>
  (Object.keys(networks).length + (hasControlnet ? CONTROLNET_SESSIONS : 0)) * OVERHEAD.session

/** Memory of several open packages in bytes. */
export const memoryOfAll = (peaks: readonly Peak[]): number =>
  sum(peaks, ({ peak, shared }) => peak - shared) + Math.max(0, ...peaks.map(({ shared }) => shared))

/**
 * All sessions stay open. Offloaded networks take turns in the same memory. Runs share one arena that never shrinks; the autoencoder's blocks
 * are larger than all others and cannot reuse them, so both are counted.
 */
const computePeakOnGpu =
  (min = 0) =>
  (resident: readonly Need[], offloaded: readonly Need[]): Peak => {
    const all = [...resident, ...offloaded]
    const [autoencoder, rest] = [true, false].map((is) =>
      all.filter(({ network }) => AUTOENCODER.includes(network) === is),
    )
    const arena = maxOf(autoencoder!, ({ workspace }) => workspace) + maxOf(rest!, ({ workspace }) => workspace)
    const weights = sum(resident, ({ weights }) => weights) + maxOf(offloaded, ({ weights }) => weights)
    const shared = Math.max(min, OVERHEAD.process + arena)
    return { peak: shared + all.length * OVERHEAD.session + weights, shared }
  }

/** Each open session has its own weights and workspace. */
const computePeakOnCpu = (resident: readonly Need[], offloaded: readonly Need[]): Peak => ({
  peak: sum(resident, computeTotal) + maxOf(offloaded, computeTotal),
  shared: 0,
})

const sum = <T>(values: readonly T[], of: (value: T) => number) => values.reduce((total, value) => total + of(value), 0)
const formatGigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`

/** Sets of resident networks. On a GPU they include the autoencoder, because offloading its few weights would save little memory. */
function listSubsets(needs: readonly Need[], { target }: Execution): Need[][] {
  const all = Array.from({ length: 2 ** needs.length }, (_, bits) => needs.filter((_, i) => (bits >> i) & 1))
  return target === 'cpu' ? all : all.filter((needs) => needs.some(({ network }) => network === 'vae_decoder'))
}

/** The needs of all networks for images of `size`, decoded in tiles of `tile`. */
function needsOf(manifest: PlannedManifest, size: Size, tile: Size, how: Execution): Need[] {
  const workspaceOf = estimateWorkspace(manifest, size, tile, how)
  return Object.entries(manifest.networks).map(([network, { weights }]) => ({
    network,
    weights: (weights === undefined ? 0 : (manifest.files[weights]?.bytes ?? 0)) * how.widening,
    workspace: workspaceOf(network),
  }))
}

/** The needs of a ControlNet's networks. Its blocks are those of the denoiser without a text stream. */
function needsOfControlnet(manifest: PlannedManifest, size: Size, how: Execution): Need[] {
  if (!how.controlnet) return []
  const { manifest: controlnet, widening } = how.controlnet
  const { control_conditioning, control } = controlnet.networks
  const weightsOf = ({ weights }: { weights?: string | undefined }) =>
    (weights === undefined ? 0 : (controlnet.files[weights]?.bytes ?? 0)) * widening
  const modulation = Number(control_conditioning.outputs[0]?.shape.at(-1) ?? 0)
  return [
    {
      ...{ network: 'control_conditioning', weights: weightsOf(control_conditioning) },
      workspace: workspaceOfConditioning(modulation, controlnet.shape.width, how),
    },
    { network: 'control', weights: weightsOf(control), workspace: workspaceOfStep(manifest, size, how) },
  ]
}

/**
 * Memory beside the networks: the residuals, which are live together, and the sessions of the graphs for ControlNets. On CUDA these graphs
 * share the weights of the step graph; on the CPU they have their own.
 */
function measureMemoryBesideControlnet(
  manifest: PlannedManifest,
  { shape }: PlannedControlnet,
  size: Size,
  how: Execution,
) {
  const { target, samples, widening } = how
  const patch = manifest.latent.downsample * manifest.latent.patch_size
  const tokens = (size.width / patch) * (size.height / patch)
  const residuals = samples * tokens * shape.width * (target === 'cpu' ? 4 : 2) * (shape.layers + 1)
  if (target !== 'cpu') return residuals + 2 * OVERHEAD.session
  const weights = manifest.networks.transformer?.weights
  return residuals + (weights === undefined ? 0 : (manifest.files[weights]?.bytes ?? 0)) * widening
}

function workspaceOfStep({ latent, position }: PlannedManifest, size: Size, { target, samples }: Execution): number {
  const value = target === 'cpu' ? 4 : 2
  const patch = latent.downsample * latent.patch_size
  const tokens = (size.width / patch) * (size.height / patch) + TEXT_TOKENS
  // A weight that is widened for its product exists twice. This is the largest one.
  const widened = 4 * position.width ** 2 * value
  return samples * tokens * position.width * value * STREAMS[target] + widened + (target === 'cpu' ? 0 : 128 * MIB)
}

/** Workspace for the modulation of all steps and the largest adaLN matrix of `width`, which is converted for its product. */
const workspaceOfConditioning = (modulation: number, width: number, { target, samples }: Execution) =>
  samples * STEPS_AT_ONCE * modulation * (target === 'cpu' ? 16 : 8) + 9 * width ** 2 * (target === 'cpu' ? 4 : 2)

/** Estimates each network's workspace from the largest tensors that are live at the same time; the factors include the arena's rounding. */
function estimateWorkspace(manifest: PlannedManifest, size: Size, tile: Size, how: Execution) {
  const { networks, text, position } = manifest
  const { target, sharing = 1 } = how
  const value = target === 'cpu' ? 4 : 2
  const modulation = networks.conditioning?.outputs.find(({ name }) => name === 'modulation')?.shape.at(-1)
  const longEncoders = text.encoders.filter((encoder) => findLongestPrompt(encoder) > LONG_PROMPT)
  const isLong = (network: NetworkName) => longEncoders.some(({ graphs }) => graphs.includes(network))
  return (network: NetworkName): number => {
    switch (network) {
      case 'transformer':
        return workspaceOfStep(manifest, size, how)
      case 'vae_decoder':
        return tile.width * tile.height * value * 1024
      case IMAGE_ENCODER:
        return tile.width * tile.height * value * 512
      case 'conditioning':
        return sharing * workspaceOfConditioning(Number(modulation ?? 0), position.width, how)
      default:
        return isLong(network) && target !== 'cpu' ? ENCODER_WORKSPACE.long : ENCODER_WORKSPACE.short
    }
  }
}

const findLongestPrompt = ({ tokens }: Manifest['text']['encoders'][number]) => tokens.max

/** The plan for a log. */
export function describePlan(plan: MemoryPlan): Record<string, unknown> {
  const { resident, offloaded, tile, peak, reread, budget, captures } = plan
  return {
    ...{ resident, offloaded, decode: tile === null ? 'whole' : `tiles of ${tile} latents` },
    ...{
      peak: formatGigabytes(peak),
      reread_per_job: formatGigabytes(reread),
      budget: budget === null ? 'none' : formatGigabytes(budget),
    },
    ...(captures > 0 && { step_graphs: formatGigabytes(captures) }),
  }
}
