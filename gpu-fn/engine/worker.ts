// The engine's thread: opens packages, keeps the most recently used ones open within a budget, and advances runs step by step.
import { parentPort, workerData } from 'node:worker_threads'
import type { JobRequest } from '../contract.ts'
import type { ControlnetPackage, NetworkName, Package } from '../manifest.ts'
import type { PipelineEvent } from '../pipeline/events.ts'
import type { Pipeline, Size } from '../pipeline/pipeline.ts'
import { createPromptCache } from '../pipeline/prompt/prompt-cache.ts'
import { type RememberPrompts, txt2img } from '../pipeline/txt2img.ts'
import { failureOf, TooLarge } from './failure.ts'
import type { Command, Message, OpeningTimes, Reply, Request, Settings } from './messages.ts'
import { requireFitting } from './package/adapters.ts'
import { createFirstPlan, type PlannedMemory } from './package/current-plan.ts'
import { footprintOf, planOf, sumDenoiserBytes } from './package/graphs.ts'
import { BudgetError, type MemoryPlan, memoryOfAll, memoryOfSessions, type Peak } from './package/memory-plan.ts'
import { type OpenPipeline, openPipeline } from './package/open-pipeline.ts'
import { endPart, type Part } from './start/parts.ts'
import { warmSizes, warmWhileLoading } from './start/warm-up.ts'
import { endsStep, StepBatches } from './step-batches.ts'

const { memoryBytes, deviceBytes, devices = 1, promptCacheBytes = 0, sharing, mapsWeights } = workerData as Settings
const port = parentPort!
/**
 * `runs`: the number of unfinished runs, during which the package must stay open. `whole`: its memory with all weights. `sessions`: its
 * memory without weights; null if its sessions cannot stay open without them.
 */
type OpenPackage = Peak & { pipeline: OpenPipeline; name: string; runs: number; whole: Peak; sessions: Peak | null }
/** Open pipelines by package digest, least recently used first. */
const open = new Map<string, OpenPackage>()
/** Paused runs by the id of their command. */
const paused = new Map<number, () => void>()
const prompts = createPromptCache(promptCacheBytes)
const batches = new StepBatches()
type Send = (message: Message) => void

port.on('message', (request: Request) => {
  if ('command' in request) void execute(request.command, request.id)
  else {
    if (request.batch) batches.join(request.id, request.batch)
    // The run of an unknown ID was on an earlier thread, so that the others of its batch must not wait for it.
    if (!paused.has(request.id)) batches.leave(request.id)
    paused.get(request.id)?.()
  }
})
post(0, { type: 'ready' })

async function execute(command: Command, id: number): Promise<void> {
  const abort = new AbortController()
  const send: Send = (message) => post(id, message)
  try {
    if (command.type === 'load') await load(command, send)
    else if (command.type === 'warm') await warm(command.package, command.sizes, send)
    else if (command.type === 'close') await close(command.package)
    else await run(command, { id, abort, send })
    send({ type: 'done' })
  } catch (error) {
    if (abort.signal.aborted && error === abort.signal.reason) send({ type: 'aborted' })
    else {
      const failure = failureOf(error, command)
      if (failure.type === 'failed' && failure.code === 'out_of_memory') await freeMemory()
      send(failure)
    }
  }
}

/** Frees all memory that unfinished runs do not need, so that the next run is more likely to fit. */
async function freeMemory(): Promise<void> {
  prompts.clear()
  for (const [digest, entry] of open) {
    if (entry.runs > 0) continue
    open.delete(digest)
    await entry.pipeline.release()
  }
}

async function load(
  { package: pkg, size, controlnet, warm }: Extract<Command, { type: 'load' }>,
  send: Send,
): Promise<void> {
  if (size) checkFits(pkg, size, controlnet)
  const start = performance.now()
  const found = open.get(pkg.digest)
  const isOpen = controlnet === null || found?.pipeline.controlnet?.digest === controlnet.digest
  const isLoaded = found !== undefined && found.peak === found.whole.peak && isOpen
  const opening: OpeningProgress = { networks: {}, parts: [], warm }
  const largest = size ?? (found ? undefined : warm) ?? pkg.manifest.defaults
  const opened = await pipelineOf(pkg, { size: largest, controlnet }, send, opening)
  if (!opened) return send({ type: 'occupied' })
  const seconds = isLoaded ? 0 : (performance.now() - start) / 1000
  send({
    type: 'loaded',
    seconds,
    networks: opening.networks,
    parts: opening.parts,
    inTurns: opened.pipeline.plan.offloaded.length > 1,
    batched: opened.pipeline.batched,
    bytes: memoryOfAll([...open.values()]),
    devices: 1 + opened.pipeline.others.length,
  })
}

/** Factors by which a refused size is scaled down to find one that fits. */
const SHRINK = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]

/** Throws TooLarge, suggesting the largest tried size of the same aspect ratio that fits. */
function checkFits(pkg: Package, { width, height }: Size, controlnet: ControlnetPackage | null): void {
  if (fits(pkg, { width, height }, controlnet)) return
  const { downsample, patch_size } = pkg.manifest.latent
  const multiple = downsample * patch_size
  const shrink = (pixels: number, share: number) =>
    Math.max(multiple, Math.floor((pixels * share) / multiple) * multiple)
  const smaller = SHRINK.map((share) => ({ width: shrink(width, share), height: shrink(height, share) }))
  const fitting = smaller.find((size) => fits(pkg, size, controlnet))
  const { model } = pkg.manifest
  const addition = controlnet ? ` with controlnet ${controlnet.manifest.name}` : ''
  if (!fitting && controlnet && fits(pkg, { width, height }, null))
    throw new TooLarge(`this server does not have the memory for ${model}${addition}; leave controls out`)
  // If no size fits, the model cannot be opened, which is not an error of the request.
  if (!fitting) return
  throw new TooLarge(
    `width x height was ${width}x${height}, which takes more memory than this server has for ${model}${addition}; ` +
      `${fitting.width}x${fitting.height} fits`,
  )
}

function fits(pkg: Package, size: Size, controlnet: ControlnetPackage | null): boolean {
  if (deviceBytes === undefined) return true
  try {
    planOf(pkg, { budget: deviceBytes, sharing }, size, controlnet)
    return true
  } catch (error) {
    if (error instanceof BudgetError) return false
    throw error
  }
}

/** Generates images of each size with an open package. */
async function warm(pkg: Package, sizes: Size[], send: Send): Promise<void> {
  const { pipeline } = await openOrThrow(pkg, { size: pkg.manifest.defaults, controlnet: null }, send)
  await warmSizes(pipeline, sizes, () => send({ type: 'progress' }))
}

type Run = Extract<Command, { type: 'run' }>
type Context = { id: number; abort: AbortController; send: Send }

async function run(
  { package: pkg, request, adapters, input, controlnet, parallel, cancel }: Run,
  { id, abort, send }: Context,
): Promise<void> {
  // A native session stops in the middle of a run, a session of the Node binding after the step.
  const { value: change } = Atomics.waitAsync(cancel, 0, 0)
  if (change instanceof Promise) void change.then(() => abort.abort())
  const needed: Requirements = { size: request, controlnet: controlnet?.package ?? null }
  const opened = await openOrThrow(pkg, needed, send)
  opened.runs += 1
  if (Atomics.load(cancel, 0) === 1) abort.abort()
  try {
    const tenant = request.schedule?.tenant ?? ''
    // Adapters may change the text encoders.
    const encoders = JSON.stringify([pkg.digest, ...adapters.map(({ lora, scale }) => [lora.digest, scale])])
    const remember: RememberPrompts = (key, encode) => prompts.get(tenant, `${encoders} ${key}`, encode)
    // Also without adapters and a ControlNet, to remove those of the previous job.
    const prepare = async () => {
      await opened.pipeline.adapt(adapters, parallel)
      return apply(opened, needed)
    }
    const sessions = await prepare()
    const control = controlnet && sessions && { controlnet: { opened: sessions, image: controlnet.image } }
    const options = { remember, parallel, ...(input && { input }), ...control }
    const pipeline = withBatches(opened.pipeline, id)
    for await (const event of txt2img(pipeline, request, abort.signal, options)) {
      if (endsStep(event)) batches.leave(id)
      const resumed = new Promise<void>((resolve) => paused.set(id, resolve))
      send({ type: 'event', event })
      await resumed
      // The pipeline checks its signal before every step.
      if (Atomics.load(cancel, 0) === 1) abort.abort()
      // Jobs with other adapters or ControlNets may have run in the meantime.
      else if (needsDevice(event, request)) await prepare()
    }
  } finally {
    paused.delete(id)
    batches.leave(id)
    opened.runs -= 1
    Atomics.notify(cancel, 0)
  }
}

/** The pipeline for one run, whose steps may share runs of the step graph with those of others. */
function withBatches(pipeline: OpenPipeline, id: number): Pipeline {
  return Object.create(pipeline, {
    conditioning: { value: batches.serialized(pipeline.conditioning) },
    transformer: { value: batches.session(id, pipeline.transformer) },
  })
}

/** Whether the turn after an event uses the device. The turn after `decoded` does not, so that other jobs may use the same weights. */
const needsDevice = (event: PipelineEvent, { count }: JobRequest): boolean =>
  event.type !== 'decoded' && event.type !== 'finished' && !(event.type === 'image' && event.image === count - 1)

type ActivePlan = Pick<PlannedMemory, 'plan' | 'controlnet'>
/** Requirements of a job: image size and ControlNet. */
type Requirements = { size: Size; controlnet: ControlnetPackage | null }

/** Applies the plan for a job, and updates the memory accounting of the package. */
async function apply(opened: OpenPackage, { size, controlnet }: Requirements) {
  const { pipeline } = opened
  const before = pipeline.plan
  try {
    return await pipeline.useControlnet(controlnet, size)
  } finally {
    // Also after an error, because the plan may have changed.
    if (pipeline.plan !== before) Object.assign(opened, countMemory(pipeline.package, pipeline))
  }
}

/** Times of the parts of an opening package. `warm`: size of the warm-up image, which runs while networks load. */
type OpeningProgress = { networks: OpeningTimes; parts: Part[]; warm?: Size | undefined }

async function openOrThrow(pkg: Package, needed: Requirements, send: Send): Promise<OpenPackage> {
  const opened = await pipelineOf(pkg, needed, send)
  if (opened) return opened
  throw new Error(`${pkg.manifest.model}:${pkg.manifest.tier} does not fit beside the packages of unfinished runs`)
}

/** Opens the package for a job, if necessary. Null if it does not fit in memory together with the packages of unfinished runs. */
async function pipelineOf(
  pkg: Package,
  needed: Requirements,
  send: Send,
  { networks, parts, warm }: OpeningProgress = { networks: {}, parts: [] },
): Promise<OpenPackage | null> {
  const onPlan = (plan: MemoryPlan) => send({ type: 'plan', plan })
  const onPart = (part: string, seconds: number) => {
    parts.push(endPart(part, seconds))
    send({ type: 'progress' })
  }
  const onOpen = (network: NetworkName, seconds: number) => {
    networks[network] = seconds
    onPart(network, seconds)
  }
  const onTokenizers = (seconds: number) => onPart('tokenizers', seconds)
  const warmUp = (pipeline: OpenPipeline) => (warm ? warmWhileLoading(pipeline, warm, onPart) : undefined)
  const found = open.get(pkg.digest)
  const { size, controlnet } = needed
  if (controlnet) requireFitting(pkg, controlnet)
  if (found) {
    const memory = countMemory(pkg, found.pipeline.planFor(size, controlnet))
    open.delete(pkg.digest)
    const isSuspended = found.peak < found.whole.peak
    const grows = memory.whole.peak > found.whole.peak
    if ((isSuspended || grows) && !(await evictPipelines(memory.whole, send))) {
      open.set(pkg.digest, found)
      return null
    }
    open.set(pkg.digest, Object.assign(found, memory))
    if (isSuspended) await found.pipeline.resume()
    await apply(found, needed)
    return found
  }
  const memory = countMemory(pkg, createFirstPlan(pkg, { budget: deviceBytes, sharing }, size, controlnet))
  if (!(await evictPipelines(memory.whole, send))) return null
  const callbacks = { onPlan, onOpen, onTokenizers, warmUp }
  const options = { budget: deviceBytes, devices, sharing, mapsWeights, size: warm, ...callbacks }
  const pipeline = await openPipeline(pkg, options)
  if (pipeline.note) send({ type: 'note', note: pipeline.note })
  const { manifest } = pkg
  const opened = { ...memory, pipeline, name: `${manifest.model}:${manifest.tier}`, runs: 0 }
  open.set(pkg.digest, opened)
  await apply(opened, needed)
  return opened
}

/** Memory of an open package under this plan. */
function countMemory(pkg: Package, planned: ActivePlan): Peak & Pick<OpenPackage, 'whole' | 'sessions'> {
  const whole = memoryOf(pkg, planned)
  const { shared } = whole
  const withoutWeights = memoryOfSessions(pkg.manifest, planned.controlnet !== null)
  const sessions = pkg.manifest.target === 'cpu' ? null : { peak: shared + withoutWeights, shared }
  return { ...whole, whole, sessions }
}

function memoryOf(pkg: Package, { plan: { peak, shared }, controlnet }: ActivePlan): Peak {
  // Further GPUs have their own memory; further sessions on the CPU do not.
  const copies = pkg.manifest.target === 'cpu' ? (devices - 1) * sumDenoiserBytes(pkg) : 0
  if (deviceBytes === undefined)
    return { peak: footprintOf(pkg).bytes + copies + footprintOfControl(pkg, controlnet), shared: 0 }
  return { peak: peak + copies, shared }
}

/** A ControlNet's weights, and those of the step graph for it, which has a copy of its own on the CPU. */
function footprintOfControl(pkg: Package, controlnet: ControlnetPackage | null): number {
  if (!controlnet) return 0
  const weights = pkg.manifest.networks.transformer?.weights ?? ''
  const own = (pkg.manifest.files[weights]?.bytes ?? 0) * footprintOf(pkg).widening
  return footprintOf(controlnet).bytes + own
}

async function close({ digest }: Package): Promise<void> {
  const found = open.get(digest)
  open.delete(digest)
  await found?.pipeline.release()
}

/**
 * Makes room for another pipeline. First the weights of the least recently used ones without unfinished runs are unloaded, so that
 * reloading costs one copy from the page cache; then their sessions are closed. False, with nothing changed, if it does not fit beside the
 * others. A pipeline above the budget runs alone.
 */
async function evictPipelines(added: Peak, send: Send): Promise<boolean> {
  const budget = deviceBytes ?? memoryBytes
  const needed = [...open.values()].filter(({ runs }) => runs > 0)
  if (needed.length > 0 && memoryOfAll([...needed, added]) > budget) return false
  const fits = () => memoryOfAll([...open.values(), added]) <= budget
  const models: string[] = []
  for (const entry of open.values()) {
    if (fits()) break
    if (entry.runs > 0 || !entry.sessions || entry.peak <= entry.sessions.peak) continue
    models.push(entry.name)
    await entry.pipeline.suspend()
    Object.assign(entry, entry.sessions)
  }
  for (const [digest, entry] of open) {
    if (fits()) break
    if (entry.runs > 0) continue
    open.delete(digest)
    if (!models.includes(entry.name)) models.push(entry.name)
    await entry.pipeline.release()
  }
  send({ type: 'closed', models, budget })
  return true
}

function post(id: number, message: Message): void {
  if (message.type !== 'event' || (message.event.type !== 'image' && message.event.type !== 'preview')) {
    port.postMessage({ id, message } satisfies Reply)
    return
  }
  // Pooled and native buffers cannot be transferred, so the thread transfers a copy.
  const data = new Uint8Array(message.event.data)
  const copied: Message = { type: 'event', event: { ...message.event, data } }
  port.postMessage({ id, message: copied } satisfies Reply, [data.buffer])
}
