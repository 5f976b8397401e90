// Sessions that open when they are needed: some stay, and of the others one at a time has its weights on the device.
import type { NetworkName } from '../manifest.ts'
import { HostResident, type Resident, type RunOptions, type Session } from '../runtime/session.ts'

export type Residency = {
  /** A session that opens its network in its first run, if it is not open then, and may run as often as one likes. */
  session(network: NetworkName): Session
  /** Opens these and lets them stay; others that were open are closed. Throws what opening throws. */
  keep(networks: readonly NetworkName[]): Promise<void>
  /** Names of the networks that are open, with their weights. */
  open(): NetworkName[]
  release(): Promise<void>
}

/** Use it from one thread. Runs of networks that come and go take turns; those that stay run side by side. `onOpen` is told how long each took to open, or its weights to come. */
export function createResidency(
  openNetwork: (network: NetworkName) => Promise<Session>,
  onOpen: (network: NetworkName, seconds: number) => void = () => {},
): Residency {
  const opened = new Map<NetworkName, Session>()
  /** Those whose weights are away. */
  const resting = new Map<NetworkName, Session>()
  let kept: ReadonlySet<NetworkName> = new Set()
  let last: Promise<unknown> = Promise.resolve()

  /** After all that was asked for before, whether it went well or not. */
  function inTurn<T>(action: () => Promise<T>): Promise<T> {
    const result = last.then(action)
    last = result.catch(() => {})
    return result
  }

  /** Its weights leave the device: alone where the session lets them, or with the session. */
  async function putAway(network: NetworkName): Promise<void> {
    const session = opened.get(network)
    if (!session?.weights) return end(network)
    session.weights.unload()
    opened.delete(network)
    resting.set(network, session)
  }

  async function end(network: NetworkName): Promise<void> {
    const session = opened.get(network) ?? resting.get(network)
    opened.delete(network)
    resting.delete(network)
    await session?.release()
  }

  async function bring(network: NetworkName): Promise<Session> {
    const session = resting.get(network)
    if (!session) return openNetwork(network)
    await session.weights?.load()
    resting.delete(network)
    return session
  }

  /** Memory is given back before more is taken. */
  async function obtain(network: NetworkName): Promise<Session> {
    const found = opened.get(network)
    if (found) return found
    if (!kept.has(network)) for (const other of [...opened.keys()]) if (!kept.has(other)) await putAway(other)
    const start = performance.now()
    const session = await bring(network)
    opened.set(network, session)
    onOpen(network, (performance.now() - start) / 1000)
    return session
  }

  async function withSession<T>(network: NetworkName, use: (session: Session) => Promise<T>): Promise<T> {
    if (kept.has(network)) return use(await inTurn(() => obtain(network)))
    return inTurn(async () => use(await obtain(network)))
  }

  return {
    session: (network) => ({
      run: (inputs, options) => withSession(network, (session) => session.run(inputs, options)),
      runResident: (inputs, options) =>
        withSession(network, async (session) => {
          if (kept.has(network)) return session.runResident(inputs, options)
          // What is left on the device would take room from the next network.
          const results = Object.entries(await session.run(inputs, options))
          return Object.fromEntries(results.map(([name, tensor]) => [name, new HostResident(tensor)]))
        }),
      release: () => end(network),
    }),
    async keep(networks) {
      const before = kept
      kept = new Set(networks)
      for (const network of [...opened.keys()]) {
        if (kept.has(network)) continue
        // What was kept had memory of its own, beside what those that come and go leave to each other.
        await (before.has(network) ? end : putAway)(network)
      }
      // Side by side: a copy to a GPU keeps one core busy and is far from what the bus can take.
      const results = await Promise.allSettled(networks.map(obtain))
      const failed = results.find((result) => result.status === 'rejected')
      if (failed) throw failed.reason
    },
    open: () => [...opened.keys()],
    async release() {
      for (const network of [...opened.keys(), ...resting.keys()]) await end(network)
    },
  }
}

/** Sessions as one: each runs on what the one before it gave, which stays on the device in between. */
export function chained(sessions: readonly Session[]): Session {
  const [first, ...others] = sessions as [Session, ...Session[]]
  if (others.length === 0) return first
  const rest = chained(others)
  const handOn = async <T>(
    inputs: Parameters<Session['run']>[0],
    options: RunOptions | undefined,
    next: (given: Record<string, Resident>) => Promise<T>,
  ): Promise<T> => {
    const given = await first.runResident(inputs, { signal: options?.signal })
    try {
      return await next(given)
    } finally {
      for (const tensor of Object.values(given)) tensor.release()
    }
  }
  return {
    run: (inputs, options) => handOn(inputs, options, (given) => rest.run(given, options)),
    runResident: (inputs, options) => handOn(inputs, options, (given) => rest.runResident(given, options)),
    async release() {
      for (const session of sessions) await session.release()
    },
  }
}
