// The GPU function on Modal from TypeScript: what runs, its log, its autoscaler. Deploying it is modal_app.py's.
import { ModalClient } from 'modal'
import type { DeployConfig } from '../config.ts'

export type Autoscaler = {
  minContainers?: number
  maxContainers?: number
  bufferContainers?: number
  scaledownWindowMs?: number
}

export type ModalServer = {
  /** Containers that run, and requests that wait for one. */
  current(): Promise<{ containers: number; backlog: number }>
  /** What happened since `since`. */
  since(since: Date): Promise<{ requests: number; failed: number; started: number; broken: number }>
  /** The last lines of its log, oldest first. */
  log(lines: number): Promise<string[]>
  /** Changes how it scales until the next deploy. `minContainers: 1` keeps one warm, whatever that costs. */
  scale(change: Autoscaler): Promise<Autoscaler>
  close(): void
}

/** Opens the deployed server of a configuration, with the account of `modal setup` or MODAL_TOKEN_ID and MODAL_TOKEN_SECRET. Throws when there is none. */
export async function openModalServer(
  { gpu }: Pick<DeployConfig, 'gpu'>,
  client = new ModalClient(),
): Promise<ModalServer> {
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
      const told: string[] = []
      for await (const { message } of server.logs.tail({ entries: lines })) told.push(message.trimEnd())
      return told
    },
    scale: (change) => server.updateAutoscaler(change),
    close: () => client.close(),
  }
}
