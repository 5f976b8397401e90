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
import type { Denoiser } from '../../pipeline/denoise.ts'
import type { Pipeline, Size } from '../../pipeline/pipeline.ts'
import type { TextEncoder } from '../../pipeline/prompt/prompt.ts'
import { openSession, type SessionOptions } from '../../runtime/open-session.ts'
import type { Session } from '../../runtime/session.ts'
import { settleAll } from '../../runtime/settle-all.ts'
import type { WeightUpdates } from '../../runtime/update/weight-update.ts'
import { readKnownWords } from '../../tokenizer/known-words.ts'
import { openTokenizer } from '../../tokenizer/tokenizer.ts'
import { waitForFiles } from '../../weights/download/arrival.ts'
import { DENOISER, sortForLoad } from '../../weights/load-order.ts'
import { type Adapter, requireFitting, updatesOf } from './adapters.ts'
import { chain } from './chain.ts'
import { CurrentPlan, type PlannedMemory } from './current-plan.ts'
import { chooseControlGraphs, chooseGraphs, chooseProviderOptions, footprintOf } from './graphs.ts'
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
  /**
   * Applies the memory plan for a job's ControlNet and image size (default: the package's). Replaces the ControlNet on the first device; its
   * networks open in their first run. With null, an open ControlNet stays open if this does not affect the residency of the package's
   * networks. Throws AdapterError for an incompatible ControlNet, and BudgetError, without any change.
   */
  useControlnet(controlnet: ControlnetPackage | null, size?: Size): Promise<Controlnet | null>
  /** The plan of `useControlnet`, without applying it. Throws BudgetError. */
  planFor(size: Size, controlnet: ControlnetPackage | null): PlannedMemory
  /** The ControlNet in the plan. */
  readonly controlnet: ControlnetPackage | null
  /** Names of the networks whose weights are loaded on the first device. */
  open(): NetworkName[]
  /** Removes all weights from the devices, until the next run. */
  suspend(): Promise<void>
  /** Loads the resident networks of the plan again after `suspend`. */
  resume(): Promise<void>
  release(): Promise<void>
}

export type PipelineOptions = Pick<SessionOptions, 'fold' | 'threads' | 'binding' | 'mapsWeights'> & {
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
  /** Receives the seconds that opening the tokenizers took. */
  onTokenizers?: (seconds: number) => void
  /** The image size of the first plan, if it is larger than the package's. */
  size?: Size | undefined
  /** Called once the tokenizers are open, while networks load. Each of its runs waits for its network. An error fails the opening. */
  warmUp?: (pipeline: OpenPipeline) => Promise<void> | undefined
}

/**
 * Opens the tokenizers of a package and the networks that its memory plan makes resident; the others open in their first run. Throws
 * `SessionError`, `TokenizerError` or `BudgetError`, with nothing left open.
 */
export async function openPipeline(pkg: Package, options: PipelineOptions = {}): Promise<OpenPipeline> {
  const { batched, note } = chooseGraphs(pkg.manifest)
  const current: CurrentControlnet = { controlnet: null }
  const placed = Array.from({ length: options.devices ?? 1 }, (_, device) => {
    return new Residency(createSessionOpener(pkg, current, options, device), options.onOpen)
  })
  const residency = placed[0]!
  const others = placed.slice(1).map(denoiserOf)
  const onEach = async (action: (each: Residency) => Promise<void>) => void (await settleAll(placed.map(action)))
  const setResident = ({ resident }: MemoryPlan) =>
    onEach((each) =>
      each.setResident(each === residency ? sortForLoad(resident) : hasDenoiser(resident) ? DENOISER : []),
    )
  const release = () => onEach((each) => each.release())
  const apply = async ({ plan, controlnet }: PlannedMemory, isSmaller: boolean) => {
    if (controlnet?.digest !== current.controlnet?.digest) await residency.close(CONTROL_NETWORKS)
    current.controlnet = controlnet
    // On the CPU, each open session retains the memory of its largest run.
    if (isSmaller && pkg.manifest.target === 'cpu') await release()
    options.onPlan?.(plan)
    await setResident(plan)
  }
  const hasNoWeights = (name: string) => !Object.hasOwn(pkg.manifest.weights, name)
  const assemble = async (planned: CurrentPlan): Promise<OpenPipeline> => {
    await waitForFiles(pkg, hasNoWeights)
    const start = performance.now()
    const encoders = await openEncoders(pkg, (network) => residency.session(network))
    options.onTokenizers?.((performance.now() - start) / 1000)
    return {
      ...{ package: pkg, encoders, batched, note, sharing: options.sharing },
      words: await readKnownWords(pkg.directory),
      ...denoiserOf(residency),
      get others() {
        return hasDenoiser(planned.plan.resident) ? others : []
      },
      vaeDecoder: residency.session('vae_decoder'),
      vaeEncoder: IMAGE_ENCODER in pkg.manifest.networks ? residency.session(IMAGE_ENCODER) : null,
      get plan() {
        return planned.plan
      },
      get controlnet() {
        return current.controlnet
      },
      planFor: (size, controlnet) => planned.next(size, controlnet),
      fit: (size) => planned.use(size),
      async adapt(adapters, onAll = false) {
        const updates = updatesOf(pkg, adapters)
        await onEach(async (each) => {
          if (onAll || each === residency) await each.update(updates)
        })
      },
      async useControlnet(controlnet, size = pkg.manifest.defaults) {
        if (controlnet) requireFitting(pkg, controlnet)
        await planned.use(size, controlnet)
        return controlnet && controlSessions(pkg, controlnet, residency)
      },
      open: () => residency.open(),
      suspend: () => onEach((each) => each.suspend()),
      resume: () => setResident(planned.plan),
      release,
    }
  }
  try {
    const planned = new CurrentPlan(pkg, options, apply)
    const loading = planned.start(options.size)
    const assembled = assemble(planned)
    await settleAll<unknown>([loading, assembled, assembled.then(options.warmUp)])
    return await assembled
  } catch (error) {
    await release()
    throw error
  }
}

/**
 * Whether all networks of the denoiser are resident. Then they fit on every further device too, because these have no other networks; the
 * memory plan of the first device thus bounds the memory of every device.
 */
const hasDenoiser = (resident: readonly NetworkName[]) => DENOISER.every((network) => resident.includes(network))

const denoiserOf = (residency: Residency): Denoiser => ({
  conditioning: residency.session('conditioning'),
  transformer: residency.session('transformer'),
})

/** The ControlNet whose networks the sessions of `CONTROL_NETWORKS` open. */
type CurrentControlnet = { controlnet: ControlnetPackage | null }

function createSessionOpener(pkg: Package, current: CurrentControlnet, options: PipelineOptions, device: number) {
  const { networks, kernels } = chooseGraphs(pkg.manifest)
  return async (network: NetworkName, updates: WeightUpdates | undefined): Promise<Session> => {
    const { controlnet } = current
    const own = networks[network]
    const { directory, manifest } = own ? pkg : controlnet!
    const { file, weights } = own ?? chooseControlGraphs(manifest as ControlnetManifest)[network as ControlNetwork]
    const { fold = footprintOf({ manifest }).fold, threads, binding, mapsWeights } = options
    const provider = chooseProviderOptions(network)
    const stored = weights && { file: path.join(directory, weights), tensors: manifest.weights[weights] ?? [] }
    const settings = { target: manifest.target, fold, kernels, provider, weights: stored || undefined, updates }
    if (own) await waitForFiles(pkg, (name) => name === file || name === weights)
    return openSession(path.join(directory, file), { ...settings, device, threads, binding, mapsWeights })
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
