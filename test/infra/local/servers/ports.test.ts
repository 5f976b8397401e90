import { once } from 'node:events'
import { createServer } from 'node:net'
import { expect, test } from 'vitest'
import { assertFree, findFreePort } from '../../../../infra/local/servers/ports.ts'

test('a taken port is named with advice, and a free one is accepted', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  await expect(assertFree(port, 'choose another one')).rejects.toThrow(`port ${port} is in use: choose another one`)
  server.close()
  await once(server, 'close')
  await assertFree(port, '')
  await assertFree(await findFreePort(), '')
})
