// Opens a package: its tokenizers, and its sessions according to a memory plan.
import path from 'node:path'
import { IMAGE_ENCODER, type NetworkName, type Package } from '../../manifest.ts'
import type { Pipeline, Size } from '../../pipeline/pipeline.ts'
import type { TextEncoder } from '../../pipeline/prompt.ts'
import { openSession, type SessionOptions } from '../../runtime/open-session.ts'
import type { Session } from '../../runtime/session.ts'
import type { WeightUpdates } from '../../runtime/update/weight-update.ts'
import { readKnownWords } from '../../tokenizer/known-words.ts'
import { openTokenizer } from '../../tokenizer/tokenizer.ts'
import { type Adapter, updatesOf } from './adapters.ts'
import { chain } from './chain.ts'
import { chooseGraphs, footprintOf, planOf, providerOptions } from './graphs.ts'
import type { MemoryPlan } from './memory-plan.ts'
import { Residency } from './residency.ts'

/** A pipeline whose sessions follow a memory plan. */
export type OpenPipeline = Pipeline & {
  /** A remark for the operator about how it was opened. */
  note: string | null
  plan: MemoryPlan
  /**
   * Replaces the adapters. Throws AdapterError, with nothing changed, if one does not fit the package. Throws errors of onnxruntime, after
   * which the adapters are undefined until the next call.
   */
  adapt(adapters: readonly Adapter[]): Promise<void>
  /** Names of the networks whose weights are loaded. */
  open(): NetworkName[]
  /** Removes all weights from the device, until the next run. */
  suspend(): Promise<void>
  /** Loads the resident networks of the plan again after `suspend`. */
  resume(): Promise<void>
  release(): Promise<void>
}

export type PipelineOptions = Pick<SessionOptions, 'fold' | 'threads' | 'binding'> & {
  /** Maximum device memory in use, in bytes; unlimited by default. */
  budget?: number | undefined
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
  const residency = new Residency(sessionOpener(pkg, options), options.onOpen)
  try {
    const encoders = await openEncoders(pkg, (network) => residency.session(network))
    const planned = await startPlan(pkg, residency, options)
    return {
      ...{ package: pkg, encoders, batched, note, sharing: options.sharing },
      words: await readKnownWords(pkg.directory),
      conditioning: residency.session('conditioning'),
      transformer: residency.session('transformer'),
      vaeDecoder: residency.session('vae_decoder'),
      vaeEncoder: IMAGE_ENCODER in pkg.manifest.networks ? residency.session(IMAGE_ENCODER) : null,
      get plan() {
        return planned.plan()
      },
      fit: planned.fit,
      adapt: async (adapters) => residency.update(updatesOf(pkg, adapters)),
      open: () => residency.open(),
      suspend: () => residency.suspend(),
      resume: () => residency.setResident(planned.plan().resident),
      release: () => residency.release(),
    }
  } catch (error) {
    await residency.release()
    throw error
  }
}

function sessionOpener(pkg: Package, { fold = footprintOf(pkg).fold, threads, binding }: PipelineOptions) {
  const { directory, manifest } = pkg
  const { networks, kernels } = chooseGraphs(manifest)
  return (network: NetworkName, updates: WeightUpdates | undefined): Promise<Session> => {
    const { file, weights } = networks[network]!
    const provider = providerOptions(network)
    const stored = weights && { file: path.join(directory, weights), tensors: manifest.weights[weights] ?? [] }
    const own = { target: manifest.target, fold, kernels, provider, weights: stored || undefined, updates }
    return openSession(path.join(directory, file), { ...own, threads, binding })
  }
}

/** Applies the plan for the package's default size. `fit` extends it to larger images. */
async function startPlan(pkg: Package, residency: Residency, { budget, sharing, onPlan }: PipelineOptions) {
  let largest: Size = pkg.manifest.defaults
  let current = await apply(planOf(pkg, { budget, sharing }))

  async function apply(plan: MemoryPlan): Promise<MemoryPlan> {
    onPlan?.(plan)
    await residency.setResident(plan.resident)
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
