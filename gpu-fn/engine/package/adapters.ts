// The updates that adapters (LoRAs) make to the stored weights of a package, and the requirements of ControlNets.
import path from 'node:path'
import { countElements } from '../../dtype.ts'
import {
  type ControlnetPackage,
  IMAGE_ENCODER,
  type LoraModule,
  type LoraPackage,
  type NetworkName,
  type Package,
  type StoredTensor,
} from '../../manifest.ts'
import { columnsOf, type LowRank, type WeightUpdate, type WeightUpdates } from '../../runtime/update/weight-update.ts'

/** An adapter, and its strength in a request. */
export type Adapter = { readonly lora: LoraPackage; readonly scale: number }

/** An adapter or a ControlNet does not fit a package; the message is for the caller. */
export class AdapterError extends Error {
  override name = 'AdapterError' as const
}

/** The rows of a module in one stored weight. */
type StoredModule = {
  graph: NetworkName
  weight: StoredTensor
  scales: StoredTensor | undefined
  rows: [number, number]
}

/** The updates of each network. Adapters of scale 0 have none. Throws AdapterError. */
export function updatesOf(pkg: Package, adapters: readonly Adapter[]): ReadonlyMap<NetworkName, WeightUpdates> {
  const active = adapters.filter(({ scale }) => scale !== 0)
  const parts = new Map<NetworkName, Map<string, WeightUpdate & { parts: LowRank[] }>>()
  for (const { lora, scale } of active) {
    for (const module of lora.manifest.modules) {
      for (const stored of locate(pkg, lora, module)) {
        const updates = parts.get(stored.graph) ?? new Map()
        parts.set(stored.graph, updates)
        const update = updates.get(stored.weight.name) ?? { weight: stored.weight, scales: stored.scales, parts: [] }
        updates.set(stored.weight.name, update)
        update.parts.push(partOf(pkg, lora, module, stored, scale))
      }
    }
  }
  const key = JSON.stringify(active.map(({ lora: { digest }, scale }) => [digest, scale]))
  const [first] = active
  const entries = [...parts].map(([graph, updates]) => {
    const weights = [...updates.values()]
    return [graph, { key, weights, graphs: graphsOf(first!.lora) }] as const
  })
  return new Map(entries)
}

function graphsOf({ directory, manifest: { graphs } }: LoraPackage): WeightUpdates['graphs'] {
  const resolveFiles = (files: Record<string, string>) =>
    Object.fromEntries(Object.entries(files).map(([dtype, file]) => [dtype, path.join(directory, file)]))
  const entries = Object.entries(graphs).map(([factors, files]) => [factors, resolveFiles(files)])
  return Object.fromEntries(entries)
}

function partOf(
  { manifest }: Package,
  lora: LoraPackage,
  module: LoraModule,
  stored: StoredModule,
  scale: number,
): LowRank {
  const { rank, up, down, rows, shape } = module
  const [start, end] = [Math.max(rows[0], stored.rows[0]), Math.min(rows[1], stored.rows[1])]
  const [, ...inner] = shape
  return {
    ...{ file: path.join(lora.directory, lora.manifest.factors), rank, up, down, scale: scale * module.scale },
    rows: [start - stored.rows[0], end - stored.rows[0]],
    upWidth: rows[1] - rows[0],
    firstColumn: start - rows[0],
    // CUDA's convolutions store their channels last.
    ...(inner.length === 3 && manifest.target !== 'cpu' && { channelsFirst: inner as [number, number, number] }),
  }
}

/** The stored weights with rows of a module; none if the package omits these rows of a fused projection. */
function locate(
  { manifest }: Package,
  lora: LoraPackage,
  { network, weight, shape, rows }: LoraModule,
): StoredModule[] {
  const found: StoredModule[] = []
  let [known, columns] = [0, 0]
  for (const graph of graphsOfNetwork(manifest, network)) {
    const tensors = manifest.weights[manifest.networks[graph]?.weights ?? ''] ?? []
    for (const tensor of tensors) {
      const range = rowsOf(tensor, weight)
      if (!range) continue
      known = Math.max(known, range[1])
      columns = columnsOf(tensor)
      const scales = tensors.find(({ name }) => name === `${tensor.name}.scale`)
      if (range[0] < rows[1] && rows[0] < range[1]) found.push({ graph, weight: tensor, scales, rows: range })
    }
  }
  const expected = countElements(shape.slice(1))
  if (found.some(({ weight: { bits } }) => bits === 4))
    throw new AdapterError(
      `lora ${lora.manifest.name} updates 4-bit weights of ${network} in ${manifest.model}, which is unsupported; ` +
        `the operator can compile the checkpoint ${network === 't5' ? 'with --t5-bits 8' : 'in tier fp8'}`,
    )
  if (known === shape[0] && columns === expected) return found
  const has = known === 0 ? 'has no such weight' : `has a weight of ${known} x ${columns}`
  throw new AdapterError(
    `lora ${lora.manifest.name} updates ${network} ${weight} of ${shape[0]} x ${expected}; ` +
      `${manifest.model} in tier ${manifest.tier} ${has}. The adapter was made for ${lora.manifest.variant}`,
  )
}

const graphsOfNetwork = ({ text }: Package['manifest'], network: string): readonly NetworkName[] =>
  network === 'transformer'
    ? ['conditioning', 'transformer']
    : (text.encoders.find(({ name }) => name === network)?.graphs ?? [])

/** The rows of a weight in a stored tensor: all, or the range in its name (`weight[start:end]`); undefined for tensors of other weights. */
function rowsOf({ name, shape }: StoredTensor, weight: string): [number, number] | undefined {
  if (name === weight) return [0, shape[0]!]
  const [, start, end] = (name.startsWith(weight) && /^\[(\d+):(\d+)\]$/.exec(name.slice(weight.length))) || []
  return start === undefined ? undefined : [Number(start), Number(end)]
}

/** Throws AdapterError unless a ControlNet can guide the denoiser of a package. */
export function requireFitting({ manifest }: Package, { manifest: { name, target, shape } }: ControlnetPackage): void {
  const refuse = (problem: string) => new AdapterError(`controlnet ${name} does not fit ${manifest.model}: ${problem}`)
  const { position, latent, text, control, networks } = manifest
  if (!control) throw refuse('its package is of an earlier version; the operator can compile the checkpoint again')
  if (!(IMAGE_ENCODER in networks)) throw refuse('its package has no VAE encoder, which the control image needs')
  const blocks = manifest.blocks?.gates.length ?? 0
  const differing = [
    { name: 'width', needed: shape.width, has: position.width },
    { name: 'latent channels', needed: shape.channels, has: latent.channels },
    { name: 'patch size', needed: shape.patch_size, has: latent.patch_size },
    { name: 'pooled width', needed: shape.pooled_width, has: text.pooled_width },
  ].find(({ needed, has }) => needed !== has)
  if (differing) throw refuse(`it is for ${differing.name} ${differing.needed}, and the model has ${differing.has}`)
  if (shape.layers > blocks) throw refuse(`it has ${shape.layers} blocks, and the model has ${blocks}`)
  if (target !== manifest.target)
    throw refuse(
      `its target is ${target}, and that of the model is ${manifest.target}; compile it with --target ${manifest.target}`,
    )
}
