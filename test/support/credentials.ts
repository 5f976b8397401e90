// The library of content credentials, and test certificates (test/golden/scripts/credentials.sh).
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

const ROOT = path.join(import.meta.dirname, '../..')
const LIBRARY = path.join(ROOT, 'gpu-fn/credentials/node_modules/@contentauth/c2pa-node/dist/index.js')
const GOLDEN = path.join(ROOT, 'test/golden/credentials')

/** Installs the library if it is missing: `npm ci` does not install it. */
export async function installLibrary(): Promise<void> {
  if (!existsSync(LIBRARY)) await promisify(execFile)('npm', ['run', 'credentials:setup'], { cwd: ROOT })
}

export const readPem = (name: string) => readFile(path.join(GOLDEN, `${name}.pem`), 'utf8')

/** A certificate chain with its key. */
export const readCredentialFiles = async (name: string, key = name) => ({
  certificates: await readPem(name),
  key: await readPem(`${key}-key`),
})

/** The credentials that the library reads from a file, with trust in the tests' root certificate; null if there are none. */
export async function readCredentials(file: Uint8Array, mimeType: string) {
  const { Reader }: typeof import('@contentauth/c2pa-node') = await import(pathToFileURL(LIBRARY).href)
  const settings = { trust: { trust_anchors: await readPem('root') }, verify: { verify_trust: true } }
  const reader = await Reader.fromAsset({ buffer: Buffer.from(file), mimeType }, settings)
  return reader?.json() ?? null
}
