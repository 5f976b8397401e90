// The overhead of the worker in workerd, with an instant GPU function, next to an empty Hono route of the same worker.
import os from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { makeScratch } from '../../command/scratch.ts'
import { type LocalOffer, startWorker } from '../../local/servers/worker.ts'
import { createKey } from '../../operator/keys.ts'
import { createSecrets } from '../../operator/secrets.ts'
import { type GpuStub, HELD_PROMPT, startGpuStub } from './gpu-stub.ts'
import { type Client, type Load, measure, newClient } from './load.ts'
import { seedLedger } from './seed-ledger.ts'

const OFFER: LocalOffer = {
  ...{ route: 'turbo', model: 'stub', tier: 'fp8', steps: 4, guidance_scale: 1 },
  ...{ width: 64, height: 64, max_pixels: 4096 },
}
const ACCOUNT = 'bench'
const CONNECTIONS = 16
/** More slots than jobs, so that the bench measures the worker and not the GPU queue. */
const UNLIMITED = { OCTET_ACCOUNT_LIMITS: '{}', GPU_SLOTS: '100000' }

export type EdgeBenchOptions = { readonly requests: number; readonly inFlight: number[]; readonly rows: number }

/** A worker with one API key, and requests of a caller. */
type Edge = {
  bare: () => Promise<unknown>
  generate: () => Promise<unknown>
  list: () => Promise<unknown>
  /** Submits a job and returns when its event stream begins; `ended` waits for its end. */
  firstEvent: () => Promise<unknown>
  ended: () => Promise<unknown>
  submitHeld: () => Promise<unknown>
  openJobs: () => Promise<number>
}

function edgeOf(client: Client, key: string, operator: string): Edge {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const post = (address: string, prompt: string) =>
    client.send(address, { method: 'POST', headers, body: JSON.stringify({ prompt }) })
  let latest = ''
  let requests = 0
  return {
    bare: () => client.send('/healthz'),
    // Equal requests at the same time share a job.
    generate: () => post('/v1/images/generations', `a cat ${++requests}`),
    list: () => client.send('/v1/jobs', { headers }),
    firstEvent: async () => {
      const { id } = JSON.parse(await post('/v1/jobs', 'a cat')) as { id: string }
      latest = `/v1/jobs/${id}`
      await client.begin(`${latest}/events`, { headers })
    },
    ended: () => client.send(latest, { headers: { ...headers, prefer: 'wait' } }),
    submitHeld: () => post('/v1/jobs', HELD_PROMPT),
    openJobs: async () => {
      const account = await client.send(`/v1/accounts/${ACCOUNT}`, { headers: { authorization: `Bearer ${operator}` } })
      return (JSON.parse(account) as { open_jobs: number }).open_jobs
    },
  }
}

/** A measured load, and that of the empty route just before it. */
type Row = { what: string; load: Load; bare: Load }

const COLUMNS = ['p50 ms', 'p99 ms', 'per second', 'p50 added', 'p50 ratio', 'p99 ratio', 'rate ratio']

function printRows(title: string, rows: Row[]): void {
  const cells = rows.map(({ what, load, bare }) => [
    ...[what, load.p50.toFixed(2), load.p99.toFixed(2), load.perSecond.toFixed(0), (load.p50 - bare.p50).toFixed(2)],
    ...[load.p50 / bare.p50, load.p99 / bare.p99, load.perSecond / bare.perSecond].map((n) => n.toFixed(2)),
  ])
  console.log(`\n${title}`)
  for (const [name, ...figures] of [['', ...COLUMNS], ...cells])
    console.log(`  ${name!.padEnd(28)}${figures.map((figure) => figure.padStart(11)).join('')}`)
}

async function measureWithBaseline(
  edge: Edge,
  what: string,
  action: () => Promise<unknown>,
  requests: number,
  rest?: () => Promise<unknown>,
): Promise<Row> {
  const bare = await measure(edge.bare, requests * 2)
  return { what, bare, load: await measure(action, requests, 1, rest) }
}

async function benchRequests(edge: Edge, requests: number): Promise<void> {
  await measure(edge.bare, 200, 4)
  await measure(edge.generate, 20, 2)
  const bare = await measure(edge.bare, requests * 4)
  printRows('One request at a time', [
    { what: 'bare Hono route', load: bare, bare },
    await measureWithBaseline(edge, 'image, whole job', edge.generate, requests),
    await measureWithBaseline(edge, 'list 20 jobs', edge.list, requests),
    await measureWithBaseline(edge, 'submit to first event', edge.firstEvent, requests, edge.ended),
  ])
  const busy = await measure(edge.bare, requests * 16, CONNECTIONS)
  printRows(`${CONNECTIONS} connections`, [
    { what: 'bare Hono route', load: busy, bare: busy },
    { what: 'image, whole job', load: await measure(edge.generate, requests * 2, CONNECTIONS), bare: busy },
  ])
}

async function waitUntil(what: string, reached: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 120_000
  while (!(await reached())) {
    if (performance.now() > deadline) throw new Error(`timed out after 120 s, waiting until ${what}`)
    await sleep(50)
  }
}

async function benchInFlight(edge: Edge, gpu: GpuStub, counts: number[], requests: number): Promise<void> {
  const rows: Row[] = []
  for (const count of counts) {
    await measure(edge.submitHeld, count - gpu.held(), CONNECTIONS)
    await waitUntil(`${count} jobs in flight`, () => gpu.held() >= count)
    rows.push(await measureWithBaseline(edge, `image, beside ${count} jobs`, edge.generate, requests))
  }
  printRows('Growth with jobs in flight', rows)
  const [held, start] = [gpu.held(), performance.now()]
  gpu.release()
  await waitUntil('without open jobs', async () => (await edge.openJobs()) === 0)
  console.log(
    `  ${held} held jobs, released at once, were stored and settled after ${Math.round(performance.now() - start)} ms`,
  )
}

async function benchLedger(edge: Edge, rows: number, requests: number): Promise<void> {
  await measure(edge.generate, 20, 2)
  printRows(`Growth with a ledger of ${rows.toLocaleString('en')} rows`, [
    await measureWithBaseline(edge, 'image, whole job', edge.generate, requests),
    await measureWithBaseline(edge, 'list 20 jobs', edge.list, requests),
  ])
}

/** Prints added latency, throughput, time to the first event, and growth with the ledger, over loopback. */
export async function benchEdge({ requests, inFlight, rows }: EdgeBenchOptions): Promise<void> {
  await using scratch = makeScratch('octet-bench-')
  const persist = scratch.directory
  const { secrets } = await createSecrets()
  const gpu = await startGpuStub()
  const common = { gpuUrl: gpu.url, persist, secrets, vars: UNLIMITED, catalog: { offers: [OFFER] } }
  const start = () => startWorker(common)
  const token = secrets.OCTET_ADMIN_TOKEN
  console.log(`${os.availableParallelism()} cores for workerd, its storage simulators, the load and the GPU.`)
  console.log('Ratios are relative to an empty route of the same worker, measured immediately before.')
  let worker = await start()
  try {
    const { key } = await createKey({ url: worker.url, token }, ACCOUNT)
    let client = newClient(worker.url)
    await benchRequests(edgeOf(client, key, token), requests)
    await benchInFlight(edgeOf(client, key, token), gpu, inFlight, requests)
    client.close()
    await worker.stop()

    await seedLedger(persist, rows)
    worker = await start()
    client = newClient(worker.url)
    await benchLedger(edgeOf(client, key, token), rows, requests)
    client.close()
  } finally {
    await worker.stop()
    await gpu.stop()
  }
}
