// Sessions that open on first use. Resident networks keep their weights on the device; offloaded ones load them for their runs, one
// network at a time.
import type { NetworkName } from '../../manifest.ts'
import { HostTensor, type Session } from '../../runtime/session.ts'
import { settleAll } from '../../runtime/settle-all.ts'
import type { WeightUpdates } from '../../runtime/update/weight-update.ts'

/** Opens a network with updates of its weights. */
type OpenNetwork = (network: NetworkName, updates: WeightUpdates | undefined) => Promise<Session>

type SessionOf = { graph?: string; keepsResults?: boolean }

/** Not thread-safe. Runs of offloaded networks are serialized; those of resident networks are concurrent. */
export class Residency {
  readonly #openNetwork: OpenNetwork
  readonly #onOpen: (network: NetworkName, seconds: number) => void
  /** Sessions with weights on the device. */
  readonly #loaded = new Map<NetworkName, Session>()
  /** Networks whose weights are being loaded. */
  readonly #loading = new Map<NetworkName, Promise<Session>>()
  /** Open sessions without weights on the device. */
  readonly #offloaded = new Map<NetworkName, Session>()
  #resident: ReadonlySet<NetworkName> = new Set()
  #updates: ReadonlyMap<NetworkName, WeightUpdates> = new Map()
  #last: Promise<unknown> = Promise.resolve()

  /** `onOpen` receives the seconds that opening a network, or loading its weights again, took. */
  constructor(openNetwork: OpenNetwork, onOpen: (network: NetworkName, seconds: number) => void = () => {}) {
    this.#openNetwork = openNetwork
    this.#onOpen = onOpen
  }

  /**
   * A session whose runs open the network if necessary, even after `release`. `graph`: the file of another graph over its weights.
   * `keepsResults`: results on the device stay there even if the network is offloaded, because the memory plan counts them.
   */
  session(network: NetworkName, { graph, keepsResults = false }: SessionOf = {}): Session {
    const graphOf = async (session: Session) => (graph === undefined ? session : session.another!(graph))
    return {
      run: (inputs, options) =>
        this.#withSession(network, async (session) => (await graphOf(session)).run(inputs, options)),
      runOnDevice: (inputs, options) =>
        this.#withSession(network, async (opened) => {
          const session = await graphOf(opened)
          if (keepsResults || this.#resident.has(network)) return session.runOnDevice(inputs, options)
          // Results on the device would occupy memory that the next offloaded network needs.
          const results = Object.entries(await session.run(inputs, options))
          return Object.fromEntries(results.map(([name, tensor]) => [name, new HostTensor(tensor)]))
        }),
      release: () => this.#close(network),
    }
  }

  /** Closes networks that another package will replace. */
  close(networks: readonly NetworkName[]): Promise<void> {
    return this.#serialize(async () => {
      for (const network of networks) await this.#close(network)
    })
  }

  /**
   * Makes these networks resident, opening them in this order as needed, and offloads all others. A run during this call
   * waits for its network, not for all of them. Throws the errors of opening.
   */
  async setResident(networks: readonly NetworkName[]): Promise<void> {
    const before = this.#resident
    this.#resident = new Set(networks)
    for (const network of [...this.#loaded.keys()]) {
      if (this.#resident.has(network)) continue
      // Closes a network that was resident, because offloaded networks do not share its memory.
      await (before.has(network) ? this.#close(network) : this.#offload(network))
    }
    // Concurrently, because a copy to a GPU occupies one core and a fraction of the bus.
    await settleAll(networks.map((network) => this.#load(network)))
  }

  /**
   * Replaces the updates of all networks' weights. Networks without updates get the package's weights back. A session whose weights cannot
   * change while it is open is closed. Throws the errors of updates; the affected networks then load their weights in their next run.
   */
  update(updates: ReadonlyMap<NetworkName, WeightUpdates>): Promise<void> {
    return this.#serialize(async () => {
      const before = this.#updates
      this.#updates = updates
      const changed = [...new Set([...before.keys(), ...updates.keys()])].filter(
        (network) => before.get(network)?.key !== updates.get(network)?.key,
      )
      await settleAll(changed.map((network) => this.#change(network)))
    })
  }

  async #change(network: NetworkName): Promise<void> {
    const session = this.#loaded.get(network) ?? this.#offloaded.get(network)
    if (session?.weights) await session.weights.update(this.#updates.get(network))
    else await this.#close(network)
  }

  /** Names of the networks whose weights are loaded. */
  open(): NetworkName[] {
    return [...this.#loaded.keys()]
  }

  /** Removes all weights from the device. The next runs load them again, without opening their sessions where possible. */
  async suspend(): Promise<void> {
    for (const network of [...this.#loaded.keys()]) await this.#offload(network)
  }

  async release(): Promise<void> {
    const networks = new Set([...this.#loading.keys(), ...this.#loaded.keys(), ...this.#offloaded.keys()])
    for (const network of networks) await this.#close(network)
  }

  async #withSession<T>(network: NetworkName, use: (session: Session) => Promise<T>): Promise<T> {
    if (this.#resident.has(network)) return use(await this.#serialize(() => this.#load(network)))
    return this.#serialize(async () => use(await this.#load(network)))
  }

  /** Runs `action` after all earlier actions have ended, whether or not they failed. */
  #serialize<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#last.then(action)
    this.#last = result.catch(() => {})
    return result
  }

  /** Loads a network, once for concurrent calls. */
  #load(network: NetworkName): Promise<Session> {
    const found = this.#loaded.get(network)
    if (found) return Promise.resolve(found)
    const loading = this.#loading.get(network) ?? this.#startLoad(network).finally(() => this.#loading.delete(network))
    this.#loading.set(network, loading)
    return loading
  }

  async #startLoad(network: NetworkName): Promise<Session> {
    // Memory is freed before more is allocated.
    if (!this.#resident.has(network)) await this.#offloadOthers()
    const start = performance.now()
    const session = await this.#openOrReload(network)
    this.#loaded.set(network, session)
    this.#onOpen(network, (performance.now() - start) / 1000)
    return session
  }

  async #openOrReload(network: NetworkName): Promise<Session> {
    const session = this.#offloaded.get(network)
    if (!session) return this.#openNetwork(network, this.#updates.get(network))
    await session.weights?.load()
    this.#offloaded.delete(network)
    return session
  }

  async #offloadOthers(): Promise<void> {
    for (const network of [...this.#loaded.keys()]) if (!this.#resident.has(network)) await this.#offload(network)
  }

  /** Removes a network's weights from the device, by closing its session if the session cannot unload them. */
  async #offload(network: NetworkName): Promise<void> {
    const session = this.#loaded.get(network)
    if (!session?.weights) return this.#close(network)
    session.weights.unload()
    this.#loaded.delete(network)
    this.#offloaded.set(network, session)
  }

  /** Closes a network after any load in progress: a GPU must not copy weights to freed memory. */
  async #close(network: NetworkName): Promise<void> {
    const loading = this.#loading.get(network)
    if (loading) await loading.catch(() => {})
    const session = this.#loaded.get(network) ?? this.#offloaded.get(network)
    this.#loaded.delete(network)
    this.#offloaded.delete(network)
    await session?.release()
  }
}
