// `npm run dev`: both servers with reload, and an API key.
import path from 'node:path'
import { endOnSignals } from '../command/end-on-signals.ts'
import { startLocal } from './local.ts'

const PORT = 8787

endOnSignals()

const local = await startLocal({
  port: PORT,
  watch: true,
  persist: path.join(import.meta.dirname, '../../.octet/dev'),
  onLog: console.log,
})
console.log(`
Octet is at ${local.url}, and reloads when a file of edge/ or gpu-fn/ changes.
  export URL=${local.url} KEY=${local.key} OCTET_ADMIN_TOKEN=${local.adminToken}
  curl -s $URL/v1/images/generations -H "authorization: Bearer $KEY" -H 'content-type: application/json' -d '{"prompt": "a red heart"}'
  npm run keys -- list --account local
`)
