// Opens a package: its tokenizers, and its sessions according to a memory plan.
import path from 'node:path'
import { IMAGE_ENCODER, type NetworkName, type Package } from '../../manifest.ts'
import type { Denoiser } from '../../pipeline/denoise.ts'
import type { Pipeline, Size } from '../../pipeline/pipeline.ts'
import type { TextEncoder } from '../../pipeline/prompt.ts'
import { openSession, type SessionOptions } from '../../runtime/open-session.ts'
import type { Session } from '../../runtime/session.ts'
import { settleAll } from '../../runtime/settle-all.ts'
import type { WeightUpdates } from '../../runtime/update/weight-update.ts'
import { readKnownWords } from '../../tokenizer/known-words.ts'
import { openTokenizer } from '../../tokenizer/tokenizer.ts'
import { type Adapter, updatesOf } from './adapters.ts'
import { chain } from './chain.ts'
import { chooseGraphs, DENOISER, footprintOf, planOf, providerOptions } from './graphs.ts'
import type { MemoryPlan } from './memory-plan.ts'
import { Residency } from './residency.ts'

/** A pipeline whose sessions follow a memory plan. */
export type OpenPipeline = Pipeline & {
  /** A remark for the operator about how it was opened. */
  note: string | null
  plan: MemoryPlan
  /**
   * Replaces the adapters on the first device, or on all. Throws AdapterError, with nothing changed, if one does not fit the package. Throws
   * errors of onnxruntime, after which the adapters are undefined until the next call.
   */
  adapt(adapters: readonly Adapter[], onAll?: boolean): Promise<void>
  /** Names of the networks whose weights are loaded on the first device. */
  open(): NetworkName[]
  /** Removes all weights from the devices, until the next run. */
  suspend(): Promise<void>
  /** Loads the resident networks of the plan again after `suspend`. */
  resume(): Promise<void>
  release(): Promise<void>
}

export type PipelineOptions = Pick<SessionOptions, 'fold' | 'threads' | 'binding'> & {
  /** Maximum memory in use of a device, in bytes; unlimited by default. */
  budget?: number | undefined
  /** Number of devices, 1 by default. All have the denoiser, and the first one has the other networks too. */
  devices?: number | undefined
  /** The number of jobs that may share a run of the step graph; 1 by default. */
  sharing?: number | undefined
  /** Receives the first plan and every later one. */
  onPlan?: (plan: MemoryPlan) => void
  /** Receives the seconds that opening a network, or loading its weights again, took. */
  onOpen?: (network: NetworkName, seconds: number) => void
}

/**
 * Opens the tokenizers of a package and the networks that its memory plan makes resident; the others open in their first run. Throws
 * `SessionError`, `TokenizerError` or `BudgetError`, with nothing left open.
 */
export async function openPipeline(pkg: Package, options: PipelineOptions = {}): Promise<OpenPipeline> {
  const { batched, note } = chooseGraphs(pkg.manifest)
  const placed = Array.from({ length: options.devices ?? 1 }, (_, device) => {
    return new Residency(sessionOpener(pkg, options, device), options.onOpen)
  })
  const residency = placed[0]!
  const others = placed.slice(1).map(denoiserOf)
  const onEach = async (action: (each: Residency) => Promise<void>) => void (await settleAll(placed.map(action)))
  const setResident = ({ resident }: MemoryPlan) =>
    onEach((each) => each.setResident(each === residency ? resident : hasDenoiser(resident) ? DENOISER : []))
  try {
    const encoders = await openEncoders(pkg, (network) => residency.session(network))
    const planned = await startPlan(pkg, setResident, options)
    return {
      ...{ package: pkg, encoders, batched, note, sharing: options.sharing },
      words: await readKnownWords(pkg.directory),
      ...denoiserOf(residency),
      get others() {
        return hasDenoiser(planned.plan().resident) ? others : []
      },
      vaeDecoder: residency.session('vae_decoder'),
      vaeEncoder: IMAGE_ENCODER in pkg.manifest.networks ? residency.session(IMAGE_ENCODER) : null,
      get plan() {
        return planned.plan()
      },
      fit: planned.fit,
      async adapt(adapters, onAll = false) {
        const updates = updatesOf(pkg, adapters)
        await onEach(async (each) => {
          if (onAll || each === residency) await each.update(updates)
        })
      },
      open: () => residency.open(),
      suspend: () => onEach((each) => each.suspend()),
      resume: () => setResident(planned.plan()),
      release: () => onEach((each) => each.release()),
    }
  } catch (error) {
    await onEach((each) => each.release())
    throw error
  }
}

/**
 * Whether all networks of the denoiser are resident. Then they fit on every further device too, because these have no other networks; the
 * memory plan of the first device thus bounds the memory of each.
 */
const hasDenoiser = (resident: readonly NetworkName[]) => DENOISER.every((network) => resident.includes(network))

const denoiserOf = (residency: Residency): Denoiser => ({
  conditioning: residency.session('conditioning'),
  transformer: residency.session('transformer'),
})

function sessionOpener(
  pkg: Package,
  { fold = footprintOf(pkg).fold, threads, binding }: PipelineOptions,
  device: number,
) {
  const { directory, manifest } = pkg
  const { networks, kernels } = chooseGraphs(manifest)
  return (network: NetworkName, updates: WeightUpdates | undefined): Promise<Session> => {
    const { file, weights } = networks[network]!
    const provider = providerOptions(network)
    const stored = weights && { file: path.join(directory, weights), tensors: manifest.weights[weights] ?? [] }
    const own = { target: manifest.target, fold, kernels, provider, weights: stored || undefined, updates }
    return openSession(path.join(directory, file), { ...own, device, threads, binding })
  }
}

/** Applies the plan for the package's default size. `fit` extends it to larger images. */
async function startPlan(
  pkg: Package,
  setResident: (plan: MemoryPlan) => Promise<void>,
  { budget, sharing, onPlan }: PipelineOptions,
) {
  let largest: Size = pkg.manifest.defaults
  let current = await apply(planOf(pkg, { budget, sharing }))

  async function apply(plan: MemoryPlan): Promise<MemoryPlan> {
    onPlan?.(plan)
    await setResident(plan)
    return plan
  }

  return {
    plan: () => current,
    async fit(size: Size): Promise<void> {
      if (size.width * size.height <= largest.width * largest.height) return
      const plan = planOf(pkg, { budget, sharing }, size)
      largest = size
      if (JSON.stringify(plan) !== JSON.stringify(current)) current = await apply(plan)
    },
  }
}

async function openEncoders(
  { directory, manifest }: Package,
  session: (network: NetworkName) => Session,
): Promise<TextEncoder[]> {
  const encoders: TextEncoder[] = []
  for (const about of manifest.text.encoders) {
    const tokenizer = await openTokenizer(path.join(directory, about.tokenizer))
    encoders.push({ about, tokenizer, session: chain(about.graphs.map(session)) })
  }
  return encoders
}
