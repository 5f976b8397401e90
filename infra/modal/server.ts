// Containers, log and autoscaler of the GPU function on Modal. modal_app.py deploys it.
import type { ModalClient } from 'modal'
import type { DeployConfig } from '../config.ts'

type Autoscaler = {
  minContainers?: number
  maxContainers?: number
  bufferContainers?: number
  scaledownWindowMs?: number
}

export type ModalServer = {
  /** Running containers, and requests waiting for one. */
  current(): Promise<{ containers: number; backlog: number }>
  /** Counts since a point in time. */
  since(since: Date): Promise<{ requests: number; failed: number; started: number; broken: number }>
  /** The last lines of its log, oldest first. */
  log(lines: number): Promise<string[]>
  /** Changes the autoscaler until the next deploy. `minContainers: 1` keeps one container warm at all times. */
  scale(change: Autoscaler): Promise<Autoscaler>
  close(): void
}

/**
 * Opens the deployed server of a configuration, with the account of `modal setup` or MODAL_TOKEN_ID and MODAL_TOKEN_SECRET. Throws if it is
 * not deployed.
 */
export async function openModalServer({ gpu }: Pick<DeployConfig, 'gpu'>, given?: ModalClient): Promise<ModalServer> {
  // Loaded on demand: `modal` is a development dependency.
  const client = given ?? new (await import('modal')).ModalClient()
  const server = await client.functions.fromName(gpu.app, gpu.server)
  return {
    async current() {
      const { backlog, numTotalRunners } = await server.getCurrentStats()
      return { containers: numTotalRunners, backlog }
    },
    async since(since) {
      const stats = await server.stats({ since })
      return {
        requests: stats.inputSuccessCount + stats.inputFailureCount + stats.inputTimeoutCount,
        failed: stats.inputFailureCount + stats.inputTimeoutCount,
        started: stats.containerStartedCount,
        broken: stats.containerErrorCount,
      }
    },
    async log(lines) {
      const messages: string[] = []
      for await (const { message } of server.logs.tail({ entries: lines })) messages.push(message.trimEnd())
      return messages
    },
    scale: (change) => server.updateAutoscaler(change),
    close: () => client.close(),
  }
}
