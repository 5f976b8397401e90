// Sessions that open when they are needed: some stay, and of the others one at a time is open.
import type { NetworkName } from './compile/manifest.ts'
import { HostResident, type RunOptions, type Session, type Tensor } from './session.ts'

export type Residency = {
  /** A session that opens its network in its first run, if it is not open then, and may run as often as one likes. */
  session(network: NetworkName): Session
  /** Opens these and lets them stay; others that were open are closed. Throws what opening throws. */
  keep(networks: readonly NetworkName[]): Promise<void>
  /** Names of the networks that are open. */
  open(): NetworkName[]
  release(): Promise<void>
}

/** Use it from one thread, one call at a time. `onOpen` is told how long each opening took. */
export function createResidency(
  openNetwork: (network: NetworkName) => Promise<Session>,
  onOpen: (network: NetworkName, seconds: number) => void = () => {},
): Residency {
  const opened = new Map<NetworkName, Session>()
  let kept: ReadonlySet<NetworkName> = new Set()

  async function close(network: NetworkName): Promise<void> {
    const session = opened.get(network)
    opened.delete(network)
    await session?.release()
  }

  /** Memory is given back before more is taken. */
  async function obtain(network: NetworkName): Promise<Session> {
    const found = opened.get(network)
    if (found) return found
    if (!kept.has(network)) for (const other of [...opened.keys()]) if (!kept.has(other)) await close(other)
    const start = performance.now()
    const session = await openNetwork(network)
    opened.set(network, session)
    onOpen(network, (performance.now() - start) / 1000)
    return session
  }

  return {
    session: (network) => ({
      run: async (inputs, options) => (await obtain(network)).run(inputs, options),
      // What is left on the device would hold its session's memory there.
      async runResident(inputs, options) {
        const session = await obtain(network)
        if (kept.has(network)) return session.runResident(inputs, options)
        const results = Object.entries(await session.run(inputs, options))
        return Object.fromEntries(results.map(([name, tensor]) => [name, new HostResident(tensor)]))
      },
      release: () => close(network),
    }),
    async keep(networks) {
      kept = new Set(networks)
      for (const network of [...opened.keys()]) if (!kept.has(network)) await close(network)
      // Side by side: a copy to a GPU keeps one core busy and is far from what the bus can take.
      const results = await Promise.allSettled(networks.map(obtain))
      const failed = results.find((result) => result.status === 'rejected')
      if (failed) throw failed.reason
    },
    open: () => [...opened.keys()],
    async release() {
      for (const network of [...opened.keys()]) await close(network)
    },
  }
}

/** Sessions as one: each runs on what the one before it gave. */
export function chained(sessions: readonly Session[]): Session {
  const last = sessions.at(-1)!
  const upToLast = async (inputs: Parameters<Session['run']>[0], options?: RunOptions) => {
    let tensors = inputs
    for (const session of sessions.slice(0, -1)) tensors = await session.run(tensors, options)
    return tensors
  }
  return {
    run: async (inputs, options): Promise<Record<string, Tensor>> => last.run(await upToLast(inputs, options), options),
    runResident: async (inputs, options) => last.runResident(await upToLast(inputs, options), options),
    async release() {
      for (const session of sessions) await session.release()
    },
  }
}
