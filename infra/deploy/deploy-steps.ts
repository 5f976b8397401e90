// The order of a deployment: the worker changes only after the new GPU function has generated an image.
import { account, bucket, database, queue, worker } from './cloudflare.ts'
import { gpuFunction, gpuSecret, modalAccount } from './modal.ts'
import type { Step } from './plan.ts'
import { type BucketSecrets, createSecretsStep, readSecretsFile, type SecretsOptions } from './secrets-file.ts'
import { smokeGpu, smokeWorker } from './smoke.ts'
import { createWeightsStep } from './weights.ts'

/** The steps of a deployment, without those of Modal if the GPU function runs elsewhere. */
export function deploySteps(options: SecretsOptions): Step[] {
  const secrets = async () => {
    const found = await readSecretsFile(options.file)
    if (!found) throw new Error(`${options.file} has disappeared`)
    return found
  }
  let bucketSecrets: BucketSecrets | undefined
  const made = createSecretsStep(options)
  const secretsKnown: Step = {
    ...made,
    async run(world) {
      await made.run(world)
      bucketSecrets = (await secrets()).bucket
    },
  }
  const onModal = [gpuSecret, createWeightsStep(() => bucketSecrets), gpuFunction]
  return [
    account,
    ...(options.onModal ? [modalAccount] : []),
    secretsKnown,
    queue,
    bucket,
    database,
    ...(options.onModal ? onModal : []),
    smokeGpu(secrets, options.onModal),
    worker,
    smokeWorker(secrets),
  ]
}
