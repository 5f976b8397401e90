// The input files of jobs in R2. They are stored before the job starts and deleted at its end.
import type { JobInput } from '#contract'
import { inputPrefixOf } from './retention.ts'

/** A file of a request: its bytes, or an image of an earlier job, which is copied within R2. */
export type InputFile = JobInput & { source: Uint8Array | { key: string } }

type Owner = { account: string; id: string }

const keyOf = ({ account, id }: Owner, { name }: Pick<JobInput, 'name'>) => `${inputPrefixOf(account)}${id}/${name}`

/** Stores the files of a job unless they are stored. Throws if the source is gone. */
export async function storeInputs(
  { RESULTS }: Pick<Env, 'RESULTS'>,
  owner: Owner,
  files: readonly InputFile[],
): Promise<void> {
  for (const { source, sha256, ...file } of files) {
    const data = source instanceof Uint8Array ? source : (await RESULTS.get(source.key))?.body
    if (!data) throw new Error(`the source of ${file.name} of ${owner.id} was deleted`)
    await RESULTS.put(keyOf(owner, file), data, { sha256, onlyIf: { etagDoesNotMatch: '*' } })
  }
}

/** Deletes the files of a job. Idempotent. */
export async function deleteInputs(
  { RESULTS }: Pick<Env, 'RESULTS'>,
  owner: Owner & { request: { inputs?: readonly JobInput[] | undefined } },
): Promise<void> {
  const { inputs = [] } = owner.request
  if (inputs.length > 0) await RESULTS.delete(inputs.map((input) => keyOf(owner, input)))
}

/** The files of a job in order, or null if one is absent. */
export async function openInputs(
  { RESULTS }: Pick<Env, 'RESULTS'>,
  owner: Owner,
  inputs: readonly JobInput[],
): Promise<ReadableStream<Uint8Array>[] | null> {
  const files = await Promise.all(inputs.map((input) => RESULTS.get(keyOf(owner, input))))
  const bodies = files.flatMap((file) => (file ? [file.body as ReadableStream<Uint8Array>] : []))
  return bodies.length === inputs.length ? bodies : null
}
