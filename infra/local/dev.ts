// `npm run dev`: both servers with reload, and an API key.
import path from 'node:path'
import { Command } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { prepareCommand } from '../command/npm.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { printError } from '../command/print.ts'
import { pageOf, startLocal } from './local.ts'
import { ROOT } from './models/package-cache.ts'

const command = new Command('dev')
  .description('Starts the worker and the GPU function with reload, and creates an API key.')
  .option('--port <number>', 'port of the worker; the GPU function uses the next one', parseWholeNumber, 8787)
  .option('--state <directory>', 'stored objects, secrets and key, kept between starts', path.join(ROOT, '.octet/dev'))
const { port, state } = prepareCommand(command).parse().opts<{ port: number; state: string }>()

endOnSignals()
try {
  const local = await startLocal({ port, watch: true, state: path.resolve(state), onLog: console.log })
  console.log(`
Octet is at ${local.url}, and reloads when a file of edge/ or gpu-fn/ changes.
  Playground: ${pageOf(local)}
  export URL=${local.url} KEY=${local.key} OCTET_ADMIN_TOKEN=${local.adminToken}
  curl -s $URL/v1/images/generations -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d '{"prompt": "a red heart"}'
  npm run keys -- list --account local --url $URL
`)
} catch (error) {
  printError('dev', error as Error)
  process.exit(1)
}
