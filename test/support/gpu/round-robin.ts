// A load balancer without memory: request k goes to target k modulo the number of targets, and what breaks on one side breaks on the other.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'

/** Starts it on loopback; `next` is the index of the target that gets the next request, and may be set. */
export async function startRoundRobin(targets: readonly string[]) {
  const balancer = { url: '', next: 0 }
  const server = http.createServer((incoming, outgoing) => {
    const target = targets[balancer.next]!
    balancer.next = (balancer.next + 1) % targets.length
    const { method, headers } = incoming
    const upstream = http.request(`${target}${incoming.url}`, { method, headers, agent: false })
    outgoing.on('close', () => upstream.destroy())
    upstream.on('error', () => outgoing.destroy())
    upstream.on('response', (reply) => {
      outgoing.writeHead(reply.statusCode!, reply.headers)
      outgoing.flushHeaders()
      pipeline(reply, outgoing).catch(() => outgoing.destroy())
    })
    incoming.pipe(upstream)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  balancer.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return Object.assign(balancer, {
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  })
}
