import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { deploySteps } from '../../../infra/deploy/deploy-steps.ts'
import { destroySteps } from '../../../infra/deploy/destroy.ts'
import { MEASURED } from '../../../infra/deploy/gpu-types.ts'
import { formatCommand, planText, runPlan, type Step, UNKNOWN } from '../../../infra/deploy/plan.ts'
import { checkEnvironment } from '../../../infra/deploy/secrets-file.ts'
import { readCredentialFiles } from '../../support/credentials.ts'
import { useScratch } from '../../support/scratch.ts'
import { createVendors, type Vendors } from '../../support/vendors.ts'

const scratch = useScratch()
let vendors: Vendors
let file: string
beforeEach(async () => {
  vendors = await createVendors()
  file = path.join(scratch.directory, 'secrets.json')
})

/** The steps without the smoke tests, which test/e2e/deploy.test.ts covers. */
const createSteps = (change: object = {}): Step[] =>
  deploySteps({ file, onModal: true, env: {}, ...change }).filter(({ id }) => !id.startsWith('smoke'))
const deploy = (change?: object) => runPlan(createSteps(change), vendors.world)
const readSecrets = async () => JSON.parse(await readFile(file, 'utf8'))
const readWorkerConfig = async () => JSON.parse(await readFile(vendors.world.state.workerConfig, 'utf8'))

test('all missing resources are created, the GPU function before the worker, with the URLs and keys of each other', async () => {
  await deploy()
  expect([...vendors.things].sort()).toEqual(
    [
      ...['queue octet-usage', 'bucket octet-results', 'database octet'],
      ...['proxy token', 'gpu secret', 'gpu function', 'worker', 'volume /large-turbo-fp8', 'volume /large-fp8'],
    ].sort(),
  )
  const order = ['d1 migrations apply', 'modal secret create', 'modal volume ls', 'modal deploy', 'wrangler deploy']
  const at = order.map((text) => vendors.ran.findIndex((command) => command.includes(text)))
  expect(at).toEqual(at.toSorted((a, b) => a - b))
  expect(vendors.ran.at(-1)).toContain(`wrangler deploy --config ${vendors.world.state.workerConfig} `)
  // One slot for each of the four containers in infra/config.json.
  expect((await readWorkerConfig()).vars).toMatchObject({ GPU_URL: 'https://gpu.test', GPU_SLOTS: '4' })
  expect(vendors.world.state.workerUrl).toBe('https://octet.test')
})

test('a second deployment creates nothing and changes no secret', async () => {
  await deploy()
  const [first, made] = [await readSecrets(), vendors.ran.filter((command) => command.includes('create')).length]
  vendors.ran.length = 0
  await deploy()
  expect(await readSecrets()).toEqual(first)
  expect(vendors.ran.filter((command) => command.includes(' create '))).toEqual([
    expect.stringContaining('modal secret create octet-gpu --force'),
  ])
  expect(made).toBeGreaterThan(3)
})

test('the executed commands are those of the plan', async () => {
  await deploy()
  const shown = createSteps()
    .flatMap((step) => step.commands(vendors.world.config, vendors.world.state))
    .map(({ command }) => formatCommand(command))
  expect(vendors.ran.filter((command) => !shown.includes(command))).toEqual([])
})

test('secrets are readable only by the owner, and each side gets only its own', async () => {
  await deploy()
  const { worker, gpuPublicKey } = await readSecrets()
  for (const name of await readdir(scratch.directory))
    expect((await stat(path.join(scratch.directory, name))).mode & 0o077).toBe(0)
  const forWorker = JSON.parse(await readFile(vendors.world.state.workerSecrets, 'utf8'))
  expect(forWorker).toEqual({ ...worker, GPU_PROXY_HEADERS: '{"default":{"modal-key":"wk-1","modal-secret":"ws-1"}}' })
  const forGpu = await readFile(vendors.world.state.gpuSecrets, 'utf8')
  expect(JSON.parse(forGpu)).toEqual({ OCTET_EDGE_PUBLIC_KEY: gpuPublicKey })
  expect(forGpu).not.toContain('"d"')
  for (const secret of Object.values(worker as Record<string, string>))
    expect(vendors.ran.join() + vendors.said.join()).not.toContain(secret)
})

describe('stops at the first failure with advice, and the next run continues from there', () => {
  const cases: [string, string, string, RegExp][] = [
    ['cloudflare-account', 'whoami', 'not authenticated', /npx wrangler login/],
    ['modal-account', 'token info', 'Token missing', /npm run modal:setup.*modal setup/],
    ['secrets', 'proxy-tokens', 'forbidden', /Copy the file/],
    ['queue', 'queues create octet-usage', 'plan does not allow', /Workers Paid/],
    ['bucket', 'lifecycle', 'no such rule', /R2 must be enabled/],
    ['database', 'migrations', 'near "CREAT": syntax error', /rolled back: fix its file/],
    ['gpu-secret', 'modal secret', 'workspace is read-only', /modal secret list/],
    ['weights', 'volume ls', 'no volume', /npm run weights -- --variant/],
    ['gpu-function', 'modal deploy', 'image build failed', /The previous version is still served/],
    ['worker', 'wrangler deploy', 'script too large', /The previous version, if any, is still served/],
  ]
  test.each(cases)('%s', async (id, containing, saying, advice) => {
    vendors.fail = { containing, saying }
    await expect(deploy()).rejects.toMatchObject({
      ...{ name: 'StepFailed', step: id },
      message: expect.stringMatching(new RegExp(`${saying.replace(/[()"]/g, '.')}[\\s\\S]*${advice.source}`)),
    })
    const later = createSteps().slice(createSteps().findIndex((step) => step.id === id) + 1)
    const theirs = later
      .flatMap((step) => step.commands(vendors.world.config, UNKNOWN))
      .map(({ command }) => command.slice(0, 3).join(' '))
    for (const command of vendors.ran)
      expect(theirs.some((start) => command.startsWith(start) && !containing.includes(start))).toBe(false)
    vendors.fail = null
    await deploy()
    expect(vendors.things).toContain('worker')
  })
})

test('a machine without the secrets of the deployed worker replaces them only with --new-secrets', async () => {
  vendors.things.add('worker')
  await expect(deploy()).rejects.toThrow(
    /has secrets that are not in .*[\s\S]*--new-secrets creates others and invalidates every API key/,
  )
  await deploy({ fresh: true })
  expect((await readSecrets()).worker.KEY_PEPPER).toMatch(/^1:/)
})

test('a machine without the secrets stops if the existence of a deployed worker is unknown', async () => {
  vendors.things.add('worker')
  vendors.fail = { containing: 'secret list', saying: 'fetch failed: getaddrinfo ENOTFOUND api.cloudflare.com' }
  await expect(deploy()).rejects.toMatchObject({ name: 'StepFailed', step: 'secrets' })
  vendors.fail = null
  await expect(deploy()).rejects.toThrow(/has secrets that are not in/)
})

test('names the missing packages', async () => {
  vendors.things.delete('volume /large-fp8')
  await expect(deploy()).rejects.toThrow(/no package of large:fp8/)
})

test('names the GPU types that cannot hold all models at once', async () => {
  const files = { 'transformer.weights': { bytes: 30e9, sha256: 'a'.repeat(64) } }
  const { exec } = vendors.world
  vendors.world.exec = async (command, options) => {
    const output = await exec(command, options)
    if (!formatCommand(command).includes('volume get')) return output
    const manifest = JSON.parse(output)
    manifest.networks.transformer.weights = 'transformer.weights'
    return JSON.stringify({
      ...manifest,
      files: { ...manifest.files, ...files },
      weights: { 'transformer.weights': [] },
    })
  }
  await expect(deploy()).rejects.toThrow(/gpu\.models take 6\d\.\d GB .* L40S \(50\.0 GB\), A100 \(41\.7 GB\)\. Serve/)
  vendors.world.config.gpu.gpus = ['H100', 'a type of the future']
  await deploy()
})

test('the first default GPU type is a measured one, and a deployment lists unmeasured types', async () => {
  const { gpus } = vendors.world.config.gpu
  const isMeasured = gpus.map((type) => MEASURED.includes(type))
  expect(isMeasured[0]).toBe(true)
  expect(isMeasured).toEqual(isMeasured.toSorted((a, b) => Number(b) - Number(a)))
  await deploy()
  expect(vendors.said.join('\n')).toContain(
    'GPU types measured: H100 (docs/performance.md); never measured: L40S, A100 (npm run bench -- gpu --short)',
  )
})

test('docs/deploy.md lists the default GPU types in order and marks the measured ones', async () => {
  const page = await readFile(path.join(import.meta.dirname, '../../../docs/deploy.md'), 'utf8')
  const rows = [...page.matchAll(/^\| `(\w+)` \| \d+\.\d \| (yes|never)/gm)].map(([, type, is]) => [type, is === 'yes'])
  expect(rows).toEqual(vendors.world.config.gpu.gpus.map((type) => [type, MEASURED.includes(type)]))
})

test('two deployments of one account share no name', async () => {
  const { world } = vendors
  const other = structuredClone(world.config)
  Object.assign(other.worker, {
    name: 'staging',
    database: 's',
    results: 's-results',
    queue: 's-usage',
    dataset: 's_jobs',
  })
  Object.assign(other.worker, { ratelimits: 2001, vars: { OCTET_LOG_PROMPTS: 'true' } })
  Object.assign(other.gpu, { app: 's-gpu', volume: 's-weights', secret: 's-gpu', proxy_token: 's' })
  await deploy()
  const first = { ran: vendors.ran.splice(0), config: await readWorkerConfig() }
  vendors.things.delete('proxy token')
  vendors.things.delete('worker')
  file = path.join(scratch.directory, 'staging', 'secrets.json')
  Object.assign(world, { config: other, configFile: '/staging.json', state: { ...UNKNOWN } })
  await deploy()
  const names = /\boctet(-usage|-results|-gpu|-weights)?\b|octet_jobs/
  const named = (lines: readonly string[]) =>
    lines.filter((line) => names.test(line.replaceAll(scratch.directory, '')) && !line.includes('modal_app.py'))
  expect(named(first.ran).length).toBeGreaterThan(5)
  expect(named(vendors.ran)).toEqual([])
  const second = await readWorkerConfig()
  expect(second).toMatchObject({ name: 'staging', vars: { OCTET_LOG_PROMPTS: 'true' } })
  const listIdentities = (config: typeof second) => [
    ...[config.name, config.queues.producers[0].queue, config.queues.consumers[0].queue],
    ...[config.r2_buckets[0].bucket_name, config.d1_databases[0].database_name],
    ...[
      config.analytics_engine_datasets[0].dataset,
      ...config.ratelimits.map((each: { namespace_id: string }) => each.namespace_id),
    ],
  ]
  expect(listIdentities(second).filter((each) => listIdentities(first.config).includes(each))).toEqual([])
})

test('additional endpoints are passed to the worker, after a check against its schema before any change', async () => {
  const { worker } = vendors.world.config
  worker.offers[0]!.fallbacks = ['runpod']
  await expect(deploy()).rejects.toThrow(/OCTET_CATALOG\.offers.*endpoint "runpod" is not defined/)
  expect([...vendors.things].filter((thing) => !thing.startsWith('volume') && thing !== 'proxy token')).toEqual([])
  worker.endpoints = { runpod: 'https://x.api.runpod.ai' }
  await deploy()
  expect((await readWorkerConfig()).vars.OCTET_CATALOG.endpoints).toEqual(worker.endpoints)
})

test('a domain, Logpush and Tail Workers are part of the configuration of the worker', async () => {
  Object.assign(vendors.world.config.worker, { domain: 'images.example.com', logpush: true, tail: ['collector'] })
  await deploy()
  expect(await readWorkerConfig()).toMatchObject({
    ...{ routes: [{ pattern: 'images.example.com', custom_domain: true }], workers_dev: false },
    ...{ logpush: true, tail_consumers: [{ service: 'collector' }] },
  })
})

test('the error for a malformed secrets file contains its path, but not its content', async () => {
  await writeFile(file, JSON.stringify({ worker: { KEY_PEPPER: 'a-secret' } }))
  const failure = await deploy().catch((error: Error) => error.message)
  expect(failure).toMatch(/secrets\.json is malformed: .*worker\.GPU_SIGNING_KEY/)
  expect(failure).not.toContain('a-secret')
})

test('prompts for the keys of a packages bucket, or reads them from the environment', async () => {
  vendors.world.config.gpu.packages = 'bucket'
  await expect(deploy()).rejects.toThrow(/asked: the packages' bucket/)
  const env = { OCTET_BUCKET: 'http://127.0.0.1:9/weights', OCTET_BUCKET_KEY_ID: 'id', OCTET_BUCKET_SECRET: 'secret' }
  const [, , , ...rest] = createSteps({ env })
  await runPlan(createSteps({ env }).slice(0, 3), vendors.world)
  expect(rest.length).toBeGreaterThan(0)
  expect(JSON.parse(await readFile(vendors.world.state.gpuSecrets, 'utf8'))).toMatchObject({
    ...env,
    OCTET_MODELS: 'large-turbo:fp8,large:fp8',
  })
})

test('the certificate of content credentials is passed to the GPU function and kept for later deployments', async () => {
  const { certificates, key } = await readCredentialFiles('es256')
  const files = { OCTET_C2PA_CERTIFICATES: path.join(scratch.directory, 'chain.pem'), OCTET_C2PA_KEY: key }
  await writeFile(files.OCTET_C2PA_CERTIFICATES, certificates)
  for (const env of [files, {}]) {
    await deploy({ env })
    expect(JSON.parse(await readFile(vendors.world.state.gpuSecrets, 'utf8'))).toMatchObject({
      OCTET_C2PA_CERTIFICATES: certificates,
      OCTET_C2PA_KEY: key,
    })
  }
  expect(() => checkEnvironment({ ...files, OCTET_C2PA_KEY: 'damaged' })).toThrow(
    /OCTET_C2PA_KEY must be PEM or the path/,
  )
  const others = await readCredentialFiles('es384')
  expect(() => checkEnvironment({ ...files, OCTET_C2PA_KEY: others.key })).toThrow(/is not the private key of/)
})

test('a plan without Modal has no steps for it', async () => {
  const text = planText(deploySteps({ file, onModal: false, env: {} }), vendors.world.config)
  expect(text).not.toContain('modal')
  vendors.world.state.gpuUrl = 'https://elsewhere.test'
  await deploy({ onModal: false, env: { GPU_PROXY_HEADERS: '{"default":{"authorization":"Bearer x"}}' } })
  expect((await readWorkerConfig()).vars.GPU_URL).toBe('https://elsewhere.test')
  expect((await readSecrets()).proxyHeaders).toEqual({ default: { authorization: 'Bearer x' } })
})

test('destroy deletes the worker first, and data only on request', async () => {
  await deploy()
  vendors.ran.length = 0
  await runPlan(destroySteps({ data: false, onModal: true }), vendors.world)
  expect(vendors.ran[0]).toBe('wrangler delete --name octet --force')
  expect([...vendors.things].sort()).toEqual(
    ['bucket octet-results', 'database octet', 'proxy token', 'volume /large-fp8', 'volume /large-turbo-fp8'].sort(),
  )
  // A repeated removal, now with the data: absent resources are not errors.
  await runPlan(destroySteps({ data: true, onModal: true }), vendors.world)
  expect(vendors.things).not.toContain('database octet')
})

test('destroy stops at a resource that it cannot delete', async () => {
  await deploy()
  vendors.fail = { containing: 'r2 bucket delete', saying: 'The bucket you tried to delete is not empty' }
  await expect(runPlan(destroySteps({ data: true, onModal: true }), vendors.world)).rejects.toThrow(
    /not empty[\s\S]*Empty it first/,
  )
})
