// `npm run dev`: both servers with reload, and an API key.
import path from 'node:path'
import { Command } from 'commander'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/whole-number.ts'
import { pageOf, startLocal } from './local.ts'

const { port } = new Command('dev')
  .description('Starts the worker and the GPU function with reload, and creates an API key.')
  .option('--port <number>', 'port of the worker; the GPU function uses the next one', parseWholeNumber, 8787)
  .parse()
  .opts<{ port: number }>()

endOnSignals()

const local = await startLocal({
  port,
  watch: true,
  persist: path.join(import.meta.dirname, '../../.octet/dev'),
  onLog: console.log,
})
console.log(`
Octet is at ${local.url}, and reloads when a file of edge/ or gpu-fn/ changes.
  Playground: ${pageOf(local)}
  export URL=${local.url} KEY=${local.key} OCTET_ADMIN_TOKEN=${local.adminToken}
  curl -s $URL/v1/images/generations -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d '{"prompt": "a red heart"}'
  npm run keys -- list --account local
`)
