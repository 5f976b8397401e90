// Opens a package: its tokenizers, and its sessions according to a memory plan.
import path from 'node:path'
import {
  CONTROL_NETWORKS,
  type ControlNetwork,
  type ControlnetManifest,
  type ControlnetPackage,
  IMAGE_ENCODER,
  type NetworkName,
  type Package,
} from '../../manifest.ts'
import type { Controlnet } from '../../pipeline/control.ts'
import type { Pipeline, Size } from '../../pipeline/pipeline.ts'
import type { TextEncoder } from '../../pipeline/prompt.ts'
import { openSession, type SessionOptions } from '../../runtime/open-session.ts'
import type { Session } from '../../runtime/session.ts'
import type { WeightUpdates } from '../../runtime/update/weight-update.ts'
import { readKnownWords } from '../../tokenizer/known-words.ts'
import { openTokenizer } from '../../tokenizer/tokenizer.ts'
import { type Adapter, requireFitting, updatesOf } from './adapters.ts'
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
  /**
   * The ControlNet, in place of an earlier one; its networks open in their first run. Without one, an earlier ControlNet stays open if that
   * leaves all networks of the package where they are. Throws AdapterError, with nothing changed, if it does not fit the package.
   */
  useControlnet(controlnet: ControlnetPackage | null): Promise<Controlnet | null>
  /** The ControlNet in the plan. */
  readonly controlnet: ControlnetPackage | null
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
  const current: Current = { controlnet: null }
  const residency = new Residency(sessionOpener(pkg, current, options), options.onOpen)
  try {
    const encoders = await openEncoders(pkg, (network) => residency.session(network))
    const planned = await startPlan(pkg, residency, current, options)
    return {
      ...{ package: pkg, encoders, batched, note },
      words: await readKnownWords(pkg.directory),
      conditioning: residency.session('conditioning'),
      transformer: residency.session('transformer'),
      vaeDecoder: residency.session('vae_decoder'),
      vaeEncoder: IMAGE_ENCODER in pkg.manifest.networks ? residency.session(IMAGE_ENCODER) : null,
      get plan() {
        return planned.plan()
      },
      get controlnet() {
        return current.controlnet
      },
      fit: planned.fit,
      adapt: async (adapters) => residency.update(updatesOf(pkg, adapters)),
      async useControlnet(controlnet) {
        if (controlnet) requireFitting(pkg, controlnet)
        await planned.useControlnet(controlnet)
        return controlnet && controlSessions(pkg, controlnet, residency)
      },
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

/** The ControlNet whose networks the sessions of `CONTROL_NETWORKS` open. */
type Current = { controlnet: ControlnetPackage | null }

function sessionOpener(pkg: Package, current: Current, options: PipelineOptions) {
  const { networks, kernels } = chooseGraphs(pkg.manifest)
  return (network: NetworkName, updates: WeightUpdates | undefined): Promise<Session> => {
    const { controlnet } = current
    const own = networks[network]
    const { directory, manifest } = own ? pkg : controlnet!
    const { file, weights } = own ?? (manifest as ControlnetManifest).networks[network as ControlNetwork]
    const { fold = footprintOf({ manifest }).fold, threads, binding } = options
    const provider = providerOptions(network)
    const stored = weights && { file: path.join(directory, weights), tensors: manifest.weights[weights] ?? [] }
    const settings = { target: manifest.target, fold, kernels, provider, weights: stored || undefined, updates }
    return openSession(path.join(directory, file), { ...settings, threads, binding })
  }
}

/** The sessions of a ControlNet, and of the package's graphs for it. */
function controlSessions(
  { directory, manifest }: Package,
  { manifest: { type, shape } }: ControlnetPackage,
  residency: Residency,
): Controlnet {
  const { embedding, transformer } = chooseGraphs(manifest).control!
  const graphOf = ({ file }: { file: string }) => ({ graph: path.join(directory, file), keepsResults: true })
  return {
    ...{ type, layers: shape.layers },
    residuals: transformer.inputs.filter(({ name }) => name.startsWith('residual_')).length,
    conditioning: residency.session('control_conditioning'),
    control: residency.session('control', { keepsResults: true }),
    embedding: residency.session('transformer', graphOf(embedding)),
    transformer: residency.session('transformer', graphOf(transformer)),
  }
}

/** Applies the plan for the package's default size. `fit` extends it to larger images. */
async function startPlan(pkg: Package, residency: Residency, current: Current, { budget, onPlan }: PipelineOptions) {
  let largest: Size = pkg.manifest.defaults
  /** The ControlNet of the current job. */
  let wanted: ControlnetPackage | null = null
  /** Whether the ControlNet in the plan may stay for jobs without one; undefined if not determined for this plan. */
  let stays: boolean | undefined
  let plan = await apply(planOf(pkg, budget))
  async function apply(next: MemoryPlan): Promise<MemoryPlan> {
    stays = undefined
    onPlan?.(next)
    await residency.setResident(next.resident)
    return next
  }
  async function change(controlnet: ControlnetPackage | null): Promise<void> {
    const next = planOf(pkg, budget, largest, controlnet)
    await residency.close(CONTROL_NETWORKS)
    current.controlnet = controlnet
    plan = await apply(next)
  }
  return {
    plan: () => plan,
    async fit(size: Size): Promise<void> {
      if (size.width * size.height <= largest.width * largest.height) return
      // The larger image may need the memory of a ControlNet that is not its own.
      if (!wanted && current.controlnet) await change(null)
      const next = planOf(pkg, budget, size, current.controlnet)
      largest = size
      if (JSON.stringify(next) !== JSON.stringify(plan)) plan = await apply(next)
    },
    async useControlnet(controlnet: ControlnetPackage | null): Promise<void> {
      wanted = controlnet
      if (controlnet?.digest === current.controlnet?.digest) return
      if (!controlnet) stays ??= isKept(planOf(pkg, budget, largest), plan)
      if (controlnet || !stays) await change(controlnet)
    },
  }
}

/** Whether all networks that a plan keeps on the device are there by another plan, with the same tiles. */
const isKept = (plan: MemoryPlan, other: MemoryPlan): boolean =>
  plan.tile === other.tile && plan.resident.every((network) => other.resident.includes(network))

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
