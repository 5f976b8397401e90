// The state of local servers: stored objects, the secrets that protect them, and the API key of the account `local`.
import { mkdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { makePrivateDirectory, writePrivateFile } from '../../command/private-files.ts'
import { makeScratch } from '../../command/scratch.ts'
import { createKey } from '../../operator/keys.ts'
import { createSecrets, formatSecrets, gpuPublicKeyOf, parseSecrets, type Secrets } from '../../operator/secrets.ts'
import { ROOT } from '../models/package-cache.ts'

const SECRETS = 'secrets.env'
const KEY = 'key'

type LocalState = {
  directory: string
  secrets: Secrets
  gpuPublicKey: string
  /** Removes a temporary state. */
  discard: () => Promise<void>
}

/** Opens the state in `directory`, with the secrets of earlier starts; a temporary one, removed at exit, unless given. */
export async function openState(directory?: string): Promise<LocalState> {
  if (directory !== undefined) {
    await makePrivateDirectory(directory)
    const secrets = await loadPersistentSecrets(path.join(directory, SECRETS))
    return { directory, secrets, gpuPublicKey: gpuPublicKeyOf(secrets), discard: async () => {} }
  }
  await mkdir(path.join(ROOT, '.octet'), { recursive: true })
  const { directory: temporary, remove } = makeScratch(`state-${process.pid}-`, path.join(ROOT, '.octet'))
  return { directory: temporary, ...(await createSecrets()), discard: remove }
}

async function loadPersistentSecrets(file: string): Promise<Secrets> {
  const text = await readText(file)
  if (text !== null) return parseSecrets(text)
  const { secrets, gpuPublicKey } = await createSecrets()
  await writePrivateFile(file, formatSecrets(secrets, gpuPublicKey))
  return secrets
}

const readText = (file: string): Promise<string | null> =>
  readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })

/** The API key of an earlier start if the worker still accepts it, otherwise a new one with all scopes. */
export async function openKey({ directory, secrets }: LocalState, url: string): Promise<string> {
  const file = path.join(directory, KEY)
  const earlier = (await readText(file))?.trim()
  if (earlier) {
    const reply = await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${earlier}` } })
    await reply.body?.cancel()
    if (reply.ok) return earlier
  }
  const target = { url, token: secrets.OCTET_ADMIN_TOKEN }
  const options = { label: 'created at start', scopes: ['generate', 'read', 'admin'] as const }
  const { key } = await createKey(target, 'local', { ...options, scopes: [...options.scopes] })
  await writePrivateFile(file, `${key}\n`)
  return key
}
