// A local S3 server, for tests and benchmarks.
import { mkdir } from 'node:fs/promises'
import S3rver from '@20minutes/s3rver'
import type { BucketAddress } from '../../../gpu-fn/weights/download/bucket.ts'

/** Starts a server that stores its objects in `directory`, accepts one key pair, and verifies signatures. */
export async function startBucket(
  directory: string,
  port = 0,
): Promise<{ address: BucketAddress; stop: () => Promise<void> }> {
  await mkdir(directory, { recursive: true })
  const server = new S3rver({
    ...{ address: '127.0.0.1', port, silent: true, directory },
    configureBuckets: [{ name: 'weights' }],
  })
  const bound = await server.run()
  const url = `http://127.0.0.1:${bound.port}/weights`
  return {
    address: { url, accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER', region: 'us-east-1' },
    stop: () => server.close(),
  }
}
