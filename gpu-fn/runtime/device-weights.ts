// The weights of a graph in memory that this process manages, at fixed addresses. They can be unloaded and loaded again, by direct reads
// from the page cache, while the session stays open: opening a session takes longer, and onnxruntime copies at a tenth of the speed.
import fs from 'node:fs/promises'
import { computeTensorBytes } from '../dtype.ts'
import type { StoredTensor } from '../manifest.ts'
import type { DeviceMemory, Mapping } from './device-memory.ts'
import { type Address, loadNative, type MappedFile, type NativeTensor, type Place, viewMemory } from './native.ts'
import { type PlacedWeights, type UpdateGraphs, updateOnDevice } from './update/on-device.ts'
import type { WeightUpdate, WeightUpdates } from './update/weight-update.ts'

export type WeightsPlace = { readonly device: DeviceMemory; readonly place: Place }

export type DeviceWeights = {
  /** The weights as tensors over the reserved addresses, by name. */
  readonly initializers: Readonly<Record<string, NativeTensor>>
  /** Copies the weights to the device, unless they are loaded. Throws an Error if the device has no memory left. */
  load(): Promise<void>
  /** Makes their memory available to other weights. Must not be called during a run or a load. */
  unload(): void
  /**
   * Replaces the updates of the weights; without `updates`, restores the content of their file. Must not be called during a run. Throws the
   * errors of the update, after which the weights are unloaded.
   */
  update(updates: WeightUpdates | undefined): Promise<void>
  /** To be called after the session's release. */
  release(): Promise<void>
}

/** A weights file and its layout. */
export type WeightsFile = { readonly file: string; readonly tensors: readonly StoredTensor[] }

/** Reserves addresses for the weights of a graph. Throws an Error if the file is shorter than its layout. */
export async function reserveWeights(
  { file, tensors }: WeightsFile,
  { device, place }: WeightsPlace,
  updateGraphs: UpdateGraphs,
): Promise<DeviceWeights> {
  const { size } = await fs.stat(file)
  const beyond = tensors.find(({ dtype, shape, offset }) => offset + computeTensorBytes(dtype, shape) > size)
  if (beyond) throw new Error(`${beyond.name} extends beyond the end of ${file}`)
  return new ReservedWeights(new HostFile(file, size, device), tensors, { device, place, updateGraphs })
}

class ReservedWeights implements DeviceWeights {
  readonly initializers: DeviceWeights['initializers']
  readonly #host: HostFile
  readonly #placed: PlacedWeights
  readonly #bytes: number
  #mapping: Mapping | undefined
  #loaded: Promise<void> | undefined
  #updates: WeightUpdates | undefined

  constructor(host: HostFile, tensors: readonly StoredTensor[], site: Omit<PlacedWeights, 'address'>) {
    const { device, place } = site
    this.#host = host
    this.#bytes = Math.ceil(host.bytes / device.granularity) * device.granularity
    const address = device.reserve(this.#bytes)
    this.#placed = { ...site, address }
    const views = tensors.map(({ name, dtype, shape, offset }) => {
      return [name, viewMemory(place, { address: address + BigInt(offset), dtype, shape })] as const
    })
    this.initializers = Object.fromEntries(views)
  }

  load(): Promise<void> {
    return this.#loaded ?? this.#keep(this.#copy())
  }

  unload(): void {
    this.#mapping?.recycle()
    this.#mapping = undefined
    this.#loaded = undefined
  }

  update(updates: WeightUpdates | undefined): Promise<void> {
    const before = this.#updates
    this.#updates = updates
    if (this.#loaded && before?.key !== updates?.key) return this.#keep(this.#change(this.#loaded, before))
    return this.#loaded ?? Promise.resolve()
  }

  /** Keeps the promise of the loaded weights, unless it fails: the next call then loads them again. */
  #keep(loaded: Promise<void>): Promise<void> {
    this.#loaded = loaded
    loaded.catch(() => {
      if (this.#loaded === loaded) this.#loaded = undefined
    })
    return loaded
  }

  async release(): Promise<void> {
    const { device, address } = this.#placed
    for (const tensor of Object.values(this.initializers)) tensor.release()
    this.#mapping?.free()
    device.unreserve(address, this.#bytes)
    await this.#host.close()
  }

  async #copy(): Promise<void> {
    const { device, address } = this.#placed
    try {
      this.#mapping = device.map(address, this.#bytes)
      await this.#host.copyAll(address)
      await this.#applyUpdates([])
    } catch (error) {
      this.unload()
      throw error
    }
  }

  /** Restores the `stale` weights, which differ from the file, and applies the current updates. */
  async #applyUpdates(stale: readonly WeightUpdate[]): Promise<void> {
    const restore = (weights: readonly WeightUpdate[]) =>
      this.#host.copyTo(this.#placed.address, weights.flatMap(rangesOf))
    if (!this.#updates) return stale.length > 0 ? restore(stale) : undefined
    await updateOnDevice(this.#placed, this.#updates, { stale, restore })
    // Maps the file for the restoration ahead of time, because mapping gigabytes takes seconds.
    this.#host.keep().catch(() => {})
  }

  /** Restores the weights that were updated before, and applies the current updates. */
  async #change(loaded: Promise<void>, before: WeightUpdates | undefined): Promise<void> {
    await loaded
    try {
      await this.#applyUpdates(before?.weights ?? [])
    } catch (error) {
      this.unload()
      throw error
    }
  }
}

type FileRange = { readonly offset: number; readonly bytes: number }

const rangesOf = ({ weight, scales }: WeightUpdate): FileRange[] =>
  [weight, ...(scales ? [scales] : [])].map(({ dtype, shape, offset }) => ({
    offset,
    bytes: computeTensorBytes(dtype, shape),
  }))

/** A mapped weights file. From the second copy on, or for the restoration of updated weights, it stays mapped and thus in memory. */
class HostFile {
  readonly bytes: number
  readonly #file: string
  readonly #device: DeviceMemory
  #kept: Promise<MappedFile> | undefined
  #copies = 0

  constructor(file: string, bytes: number, device: DeviceMemory) {
    this.#file = file
    this.bytes = bytes
    this.#device = device
  }

  /** Maps the file ahead of its next copy, and keeps it mapped. */
  keep(): Promise<MappedFile> {
    this.#kept ??= this.#map().catch((error: unknown) => {
      this.#kept = undefined
      throw error
    })
    return this.#kept
  }

  /** Copies the file to `address`. The first copy reads it, because mapping gigabytes takes seconds. */
  copyAll(address: Address): Promise<void> {
    const upload = this.#device.uploadFile
    if (!upload || this.#copies > 0 || this.#kept) return this.copyTo(address, [{ offset: 0, bytes: this.bytes }])
    this.#copies++
    return upload(this.#file, address, this.bytes)
  }

  /** Copies ranges of the file to the same offsets from `address`. */
  async copyTo(address: Address, ranges: readonly FileRange[]): Promise<void> {
    this.#copies++
    const kept = this.#copies > 1 ? this.keep() : this.#kept
    const mapped = await (kept ?? this.#map())
    try {
      const copies = ranges.map(({ offset, bytes }) => {
        const at = BigInt(offset)
        return { to: address + at, from: mapped.address + at, bytes }
      })
      await this.#device.copyFromHost(copies)
    } finally {
      if (!kept) await mapped.close()
    }
  }

  async close(): Promise<void> {
    const mapped = await this.#kept?.catch(() => undefined)
    this.#kept = undefined
    await mapped?.close()
  }

  #map(): Promise<MappedFile> {
    return mapFile(this.#file, this.bytes, this.#device)
  }
}

/** Maps a file into memory and registers it for copies to the device. */
async function mapFile(file: string, bytes: number, device: DeviceMemory): Promise<MappedFile> {
  const mapped = await loadNative().MappedFile.open(file, bytes)
  const { address } = mapped
  const registered = await device.register(address, bytes)
  return {
    address,
    async close() {
      if (registered) await device.unregister(address)
      await mapped.close()
    },
  }
}
