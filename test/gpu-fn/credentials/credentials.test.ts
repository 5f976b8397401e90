import { createHash } from 'node:crypto'
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openSigner } from '../../../gpu-fn/credentials/signer.ts'
import { withCredentials } from '../../../gpu-fn/credentials/signing-engine.ts'
import type { Engine } from '../../../gpu-fn/engine/engine.ts'
import { readParameters } from '../../../gpu-fn/pipeline/image.ts'
import { compileTiny } from '../../support/checkpoints/compile.ts'
import { installLibrary, readCredentialFiles, readCredentials, readPem } from '../../support/credentials.ts'
import { putJob } from '../../support/gpu/client.ts'
import { readWholeStream } from '../../support/gpu/job-stream.ts'
import { type GpuProcess, runGpuProcess, startGpuProcess } from '../../support/gpu/process.ts'

let packages: string
let gpu: GpuProcess
beforeAll(async () => {
  await installLibrary()
  packages = await mkdtemp(path.join(tmpdir(), 'octet-credentials-'))
  await cp(await compileTiny({ tier: 'fp8' }), path.join(packages, 'custom'), { recursive: true })
  const { certificates, key } = await readCredentialFiles('es256')
  const file = path.join(packages, 'key.pem')
  await writeFile(file, key)
  gpu = await startGpuProcess(packages, { OCTET_C2PA_CERTIFICATES: certificates, OCTET_C2PA_KEY: file })
  await gpu.ready()
})
afterAll(async () => {
  await gpu[Symbol.asyncDispose]()
  await rm(packages, { recursive: true })
})

test.each(['png', 'jpeg', 'webp'] as const)(
  'a %s has credentials, its XMP, and the digest of the signed bytes',
  async (output_format) => {
    const job = { model: 'custom', steps: 1, output_format, width: 64, height: 64 }
    const entries = await readWholeStream(await putJob(gpu.url, output_format, job))
    const { event, data } = entries.find((entry) => entry.data)!
    expect(event).toMatchObject({ sha256: createHash('sha256').update(data!).digest('hex'), bytes: data!.byteLength })
    const read = await readCredentials(data!, `image/${output_format}`)
    expect(read).toMatchObject({ validation_state: 'Trusted', validation_results: { activeManifest: { failure: [] } } })
    expect(read!.manifests![read!.active_manifest!]).toMatchObject({
      claim_generator_info: [{ name: 'Octet' }],
      assertions: [
        {
          label: 'c2pa.actions.v2',
          data: {
            actions: [
              {
                action: 'c2pa.created',
                digitalSourceType: 'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia',
              },
            ],
          },
        },
      ],
      signature_info: { common_name: 'es256' },
    })
    expect(await readParameters(data!)).toMatchObject({ model: 'custom', steps: 1 })
    const changed = Uint8Array.from(data!)
    changed[changed.length - 20]! ^= 1
    expect((await readCredentials(changed, `image/${output_format}`).catch(() => null))?.validation_state).not.toBe(
      'Trusted',
    )
  },
)

test('states that a model also had an input image', async () => {
  const signer = await openSigner(await readCredentialFiles('es256'))
  const signed = await signer.sign(await sharp(BLACK).webp().toBuffer(), 'image/webp', true)
  const read = await readCredentials(signed, 'image/webp')
  expect(read!.validation_state).toBe('Trusted')
  expect(JSON.stringify(read!.manifests)).toContain('digitalsourcetype/compositeWithTrainedAlgorithmicMedia')
})

test('an engine with credentials receives input images and all other calls', async () => {
  const calls: unknown[][] = []
  const plain = {
    models: ['a model'],
    async *run(...call: unknown[]) {
      calls.push(call)
      yield { type: 'step' }
      yield { type: 'image', data: Uint8Array.of(7), content_type: 'image/png' }
    },
    prefetch: async (...call: unknown[]) => void calls.push(call),
  }
  const sign = async (file: Uint8Array, type: string, hasInput?: boolean) => Buffer.from(`${file} ${type} ${hasInput}`)
  const signing = withCredentials(plain as unknown as Engine, { sign, subject: '', expires: new Date() })
  type Run = (...call: unknown[]) => AsyncIterable<{ data?: Uint8Array }>
  const listFiles = async (...call: unknown[]) => {
    const files: string[] = []
    for await (const { data } of (signing.run as unknown as Run)(...call)) if (data) files.push(String(data))
    return files
  }
  const options = { input: 'image' }
  expect(await listFiles('model', 'request', 'signal', options)).toEqual(['7 image/png true'])
  expect(await listFiles('model', 'request', 'signal')).toEqual(['7 image/png false'])
  await (signing as unknown as typeof plain).prefetch('model', 'signal')
  expect(calls).toEqual([
    ['model', 'request', 'signal', options],
    ['model', 'request', 'signal'],
    ['model', 'signal'],
  ])
  expect(signing.models).toEqual(['a model'])
})

test.each(['es384', 'ps256', 'ed25519'])('signs with %s', async (name) => {
  const signer = await openSigner(await readCredentialFiles(name))
  const signed = await signer.sign(await sharp(BLACK).webp().toBuffer(), 'image/webp')
  expect(await readCredentials(signed, 'image/webp')).toMatchObject({ validation_state: 'Trusted' })
})

const BLACK = { create: { width: 16, height: 16, channels: 3, background: 'black' } } as const

test('startup fails with the defect of an unusable certificate or key', async () => {
  const { certificates, key } = await readCredentialFiles('es256')
  const reasonOf = async (environment: Record<string, string>) => {
    const { code, output } = await runGpuProcess({ OCTET_PACKAGES: packages, OCTET_INSECURE: '1', ...environment })
    expect(output).not.toContain('PRIVATE KEY')
    return `${code}: ${output}`
  }
  expect(await reasonOf({ OCTET_C2PA_CERTIFICATES: certificates, OCTET_C2PA_KEY: await readPem('es384-key') })).toMatch(
    /^1: .*OCTET_C2PA_KEY is not the private key of the first certificate .*the GPU function cannot start/s,
  )
  expect(await reasonOf({ OCTET_C2PA_CERTIFICATES: certificates })).toMatch(
    /^2: OCTET_C2PA_CERTIFICATES and OCTET_C2PA_KEY must be set together/,
  )
  expect(await reasonOf({ OCTET_C2PA_CERTIFICATES: '/nowhere.pem', OCTET_C2PA_KEY: key })).toMatch(
    /^2: OCTET_C2PA_CERTIFICATES must be PEM or the path of a file with it; as a path, it cannot be read \(ENOENT\)/,
  )
})
