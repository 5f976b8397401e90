// Loopback ports for local servers.
import { once } from 'node:events'
import { createServer } from 'node:net'

const HOST = '127.0.0.1'

async function listen(port: number): Promise<number> {
  const server = createServer().listen(port, HOST)
  await once(server, 'listening')
  const bound = (server.address() as { port: number }).port
  server.close()
  await once(server, 'close')
  return bound
}

/** A port that is free now. */
export const findFreePort = (): Promise<number> => listen(0)

/** Throws if a port cannot be used; `advice` completes the message. */
export async function assertFree(port: number, advice: string): Promise<void> {
  await listen(port).catch((cause: NodeJS.ErrnoException) => {
    const reason = cause.code === 'EADDRINUSE' ? 'in use' : `not available (${cause.code})`
    throw new Error(`port ${port} is ${reason}: ${advice}`, { cause })
  })
}
