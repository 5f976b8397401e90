// `npm run clients`: Python's clients against a worker and a GPU function on this machine.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Command } from 'commander'
import { endWithThis } from '../../infra/command/child-process.ts'
import { endOnSignals } from '../../infra/command/end-on-signals.ts'
import { startLocal } from '../../infra/local/local.ts'
import { ROOT } from '../../infra/local/models/package-cache.ts'
import { createKey } from '../../infra/operator/keys.ts'

const REQUIREMENTS = path.join(import.meta.dirname, 'requirements.txt')
const VENV = path.join(ROOT, '.octet/clients')

/** The interpreter of an environment with the packages of requirements.txt, which is created or updated with `python` if necessary. */
function preparePython(python: string): string {
  const own = path.join(VENV, 'bin/python')
  const [stamp, wanted] = [path.join(VENV, 'requirements.txt'), readFileSync(REQUIREMENTS, 'utf8')]
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return own
  console.log(`Installing the packages of ${path.relative(ROOT, REQUIREMENTS)} …`)
  execFileSync(python, ['-m', 'venv', VENV], { stdio: 'inherit' })
  execFileSync(own, ['-m', 'pip', 'install', '--quiet', '--requirement', REQUIREMENTS], { stdio: 'inherit' })
  writeFileSync(stamp, wanted)
  return own
}

const { python } = new Command('clients')
  .description('Calls a local worker through the Python clients of test/clients/requirements.txt.')
  .option('--python <file>', 'Python interpreter for the environment of the clients', 'python3')
  .parse()
  .opts<{ python: string }>()

endOnSignals()
const interpreter = preparePython(python)
const local = await startLocal()
try {
  const target = { url: local.url, token: local.adminToken }
  const limited = await createKey(target, 'local', { limits: { concurrent_jobs: 1 } })
  const env = { ...process.env, OCTET_URL: local.url, OCTET_KEY: local.key, OCTET_LIMITED_KEY: limited.key }
  const script = path.join(import.meta.dirname, 'clients.py')
  const [status] = await once(endWithThis(spawn(interpreter, [script], { env, stdio: 'inherit' })), 'exit')
  process.exitCode = status === 0 ? 0 : 1
} finally {
  await local.stop()
}
