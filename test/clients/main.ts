// `npm run clients`: Python's clients against a worker and a GPU function on this machine.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { Command } from 'commander'
import { startLocal } from '../../infra/local/local.ts'

const { python } = new Command('clients')
  .description('Calls a local worker through the Python clients of test/clients/requirements.txt.')
  .option('--python <file>', 'Python interpreter with these packages', 'python3')
  .parse()
  .opts<{ python: string }>()

const local = await startLocal()
try {
  const env = { ...process.env, OCTET_URL: local.url, OCTET_KEY: local.key }
  const script = path.join(import.meta.dirname, 'clients.py')
  const [status] = await once(spawn(python, [script], { env, stdio: 'inherit' }), 'exit')
  process.exitCode = status === 0 ? 0 : 1
} finally {
  await local.stop()
}
