// `npm run bench -- stream`: speed of downloading a package from a bucket to disk, alternating with curl from the same server.
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { open, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { AwsClient } from 'aws4fetch'
import { pino } from 'pino'
import { PackageCache } from '../../gpu-fn/weights/cache.ts'
import { type BucketAddress, openBucket } from '../../gpu-fn/weights/download/bucket.ts'
import { blobKeyOf } from '../../gpu-fn/weights/layout.ts'
import { Verifier } from '../../gpu-fn/weights/verification.ts'
import { completeFakePackage } from '../checkpoints/fake-package.ts'
import { endWithThis, outputOf } from '../command/child-process.ts'
import { makeScratch } from '../command/scratch.ts'
import { createUploadTarget, uploadPackage } from '../weights/upload.ts'
import { median } from './statistics.ts'

export type StreamBenchOptions = { gigabytes: number; runs: number; directory?: string }

const SERVER = path.join(import.meta.dirname, 'bucket-process.ts')
const MEGABYTE = 1_000_000

/** Prints MB/s of both in each round, and the ratio of the medians. */
export async function benchStream({ gigabytes, runs, directory = tmpdir() }: StreamBenchOptions): Promise<void> {
  await using temporary = makeScratch('octet-stream-', directory)
  const scratch = temporary.directory
  const server = endWithThis(fork(SERVER, [path.join(scratch, 'bucket')]))
  try {
    const address = await new Promise<BucketAddress>((resolve) => server.once('message', resolve))
    const source = path.join(scratch, 'package')
    const name = { model: 'large-turbo', tier: 'fp8', target: 'cuda' } as const
    const bytes = gigabytes * 1000 * MEGABYTE
    const { manifest } = await completeFakePackage(source, name, async () => {
      await writeNoise(path.join(source, 'transformer.bin'), bytes)
    })
    await uploadPackage(createUploadTarget(address), source)
    await rm(source, { recursive: true })
    const key = blobKeyOf(manifest.files['transformer.bin']!.sha256)
    const rates = { curl: [] as number[], octet: [] as number[] }
    console.log(`${gigabytes} GB from a local S3 server to ${scratch}, MB/s`)
    for (let run = 0; run <= runs; run++) {
      const curl = await measureRate(bytes, () => downloadWithCurl(address, key, path.join(scratch, 'curl.out')))
      await rm(path.join(scratch, 'curl.out'))
      const octet = await measureRate(bytes, () => downloadWithOctet(address, name, path.join(scratch, 'cache')))
      await rm(path.join(scratch, 'cache'), { recursive: true })
      const kind = run === 0 ? 'warm-up' : `run ${run}  `
      console.log(
        `${kind}  curl ${curl.toFixed(0).padStart(5)}   octet, with SHA-256 ${octet.toFixed(0).padStart(5)}   ${(octet / curl).toFixed(2)} ×`,
      )
      if (run === 0) continue
      rates.curl.push(curl)
      rates.octet.push(octet)
    }
    const ratio = median(rates.octet.map((octet, k) => octet / rates.curl[k]!))
    const formatLine = (name: string, of: (values: number[]) => number, ratio: number) =>
      console.log(
        `${name}   curl ${of(rates.curl).toFixed(0).padStart(5)}   octet, with SHA-256 ${of(rates.octet).toFixed(0).padStart(5)}   ${ratio.toFixed(2)} ×`,
      )
    formatLine('median', median, ratio)
    const findBest = (values: number[]) => Math.max(...values)
    // The fastest run is the least disturbed by other load of the machine.
    formatLine('best  ', findBest, findBest(rates.octet) / findBest(rates.curl))
  } finally {
    server.kill()
  }
}

/** MB/s of one run, which starts after all earlier writes have reached the disk. */
async function measureRate(bytes: number, run: () => Promise<unknown>): Promise<number> {
  await outputOf('sync', [])
  const start = performance.now()
  await run()
  return bytes / MEGABYTE / ((performance.now() - start) / 1000)
}

async function downloadWithCurl(
  { url, accessKeyId, secretAccessKey, region }: BucketAddress,
  key: string,
  out: string,
): Promise<void> {
  const client = new AwsClient({ accessKeyId, secretAccessKey, region: region!, service: 's3' })
  const signed = await client.sign(`${url}/${key}`, { aws: { signQuery: true } })
  await outputOf('curl', ['--silent', '--fail', '--output', out, signed.url])
}

function downloadWithOctet(
  address: BucketAddress,
  name: { model: string; tier: 'fp8'; target: string },
  directory: string,
) {
  const log = pino({ level: 'silent' })
  const verifier = new Verifier({ directory, log })
  return new PackageCache({ directory, budgetBytes: 1e12, bucket: openBucket(address), verifier, log }).ensure(name)
}

async function writeNoise(file: string, bytes: number): Promise<void> {
  const block = randomBytes(64 * MEGABYTE)
  await using output = await open(file, 'w')
  for (let left = bytes; left > 0; left -= block.length) {
    block.writeBigUInt64LE(BigInt(left))
    await output.write(block.subarray(0, Math.min(left, block.length)))
  }
}
