// A stateless load balancer: request k is forwarded to target k modulo the number of targets, and a connection that breaks on one side is
// broken on the other.
import http from 'node:http'
import { pipeline } from 'node:stream/promises'
import { serveLocally } from '../../../infra/command/local-server.ts'

/** Starts it on loopback; `next` is the index of the target that gets the next request, and may be set. */
export async function startRoundRobin(targets: readonly string[]) {
  const balancer = { url: '', next: 0 }
  const { url, stop } = await serveLocally((incoming, outgoing) => {
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
  return Object.assign(balancer, { url, [Symbol.asyncDispose]: stop })
}
