// An HTTP server on the loopback interface, for simulated services.
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'

type LocalServer = { url: string; port: number; stop: () => Promise<void> }

/** Starts a server on a free port of 127.0.0.1. `stop` breaks all connections. */
export async function serveLocally(listener: RequestListener = () => {}): Promise<LocalServer> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const stop = async () => {
    if (!server.listening) return
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  }
  return { url: `http://127.0.0.1:${port}`, port, stop }
}
