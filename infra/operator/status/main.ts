// `npm run status`: the state, warm GPUs and cost since midnight of a deployment; `scale`, `log` and `prewarm` control the GPU function.

import { Command } from 'commander'
import { endOnSignals } from '../../command/end-on-signals.ts'
import { prepareCommand } from '../../command/npm.ts'
import { parseWholeNumber } from '../../command/numbers.ts'
import { print, printError } from '../../command/print.ts'
import { CONFIG_FILE, type DeployConfig, readDeployConfig } from '../../config.ts'
import { exec } from '../../deploy/exec.ts'
import { readSecretsFile, secretsFileOf } from '../../deploy/secrets-file.ts'
import { openModalServer } from '../../modal/server.ts'
import { renderStatusScreen } from './status.ts'

const configOf = () => readDeployConfig(program.opts<{ config: string }>().config)
const secretsOf = ({ worker }: DeployConfig) => readSecretsFile(secretsFileOf(worker.name))

const program = new Command('status')
  .description('Shows the state of a deployment.')
  .option('--config <file>', 'the configuration of the deployment', CONFIG_FILE)
  .option('--url <address>', 'address of the worker', process.env.OCTET_URL)
  .option('--no-modal', 'omit Modal, because the GPU function runs elsewhere')
  .action(async ({ url, modal }: { url?: string; modal: boolean }) => {
    const config = await configOf()
    const worker = async (path: string) => {
      if (!url) throw new Error('set the address of the worker with --url or OCTET_URL')
      const token = process.env.OCTET_ADMIN_TOKEN ?? (await secretsOf(config))?.worker.OCTET_ADMIN_TOKEN
      if (!token) throw new Error('set OCTET_ADMIN_TOKEN')
      const reply = await fetch(new URL(path, url), { headers: { authorization: `Bearer ${token}` } })
      if (!reply.ok) throw new Error(`${url} returned ${reply.status}`)
      return reply.json()
    }
    const lines = await renderStatusScreen({ config, exec, worker, openModal: () => openModalServer(config) }, modal)
    print(lines.join('\n'))
  })

program
  .command('log')
  .description("show the last lines of the GPU function's log")
  .option('--lines <count>', 'number of lines', parseWholeNumber, 100)
  .action(async ({ lines }) => {
    const server = await openModalServer(await configOf())
    for (const line of await server.log(lines)) print(line)
    server.close()
  })

program
  .command('scale')
  .description('change the scaling of the GPU function until the next deploy')
  .option('--min <count>', 'permanent containers, which are billed at all times', parseWholeNumber)
  .option('--max <count>', 'maximum number of containers', parseWholeNumber)
  .option('--buffer <count>', 'spare containers under load', parseWholeNumber)
  .option('--idle <seconds>', 'idle time before a container ends', parseWholeNumber)
  .action(async ({ min, max, buffer, idle }) => {
    const server = await openModalServer(await configOf())
    const change = {
      ...(min !== undefined && { minContainers: min }),
      ...(max !== undefined && { maxContainers: max }),
      ...(buffer !== undefined && { bufferContainers: buffer }),
      ...(idle !== undefined && { scaledownWindowMs: idle * 1000 }),
    }
    print(JSON.stringify(await server.scale(change)))
    server.close()
  })

program
  .command('prewarm')
  .description('start the GPU function now and wait until it is ready')
  .requiredOption('--gpu-url <address>', 'address of the GPU function, as shown by `modal server info`')
  .action(async ({ gpuUrl }: { gpuUrl: string }) => {
    const headers = (await secretsOf(await configOf()))?.proxyHeaders.default ?? {}
    const start = Date.now()
    for (;;) {
      const reply = await fetch(`${gpuUrl.replace(/\/$/, '')}/ping`, { headers }).catch(() => null)
      if (reply?.status === 200) return print(`ready after ${Math.round((Date.now() - start) / 1000)} s`)
      if (reply && [401, 403].includes(reply.status))
        throw new Error(`the host rejected the proxy token: ${reply.status}`)
      await new Promise((resolve) => setTimeout(resolve, 3000))
    }
  })

endOnSignals()
await prepareCommand(program)
  .parseAsync()
  .catch((error: Error) => {
    printError('status', error)
    process.exitCode = 1
  })
