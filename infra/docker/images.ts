// `npm run images`: checks and pins the digests of Dockerfile.gpu's base images. Needs a registry but no container engine.

import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { Command } from 'commander'
import { printError } from '../command/print.ts'
import { formatReference, type ImageReference, parseReference, resolveDigest } from './registry.ts'

/** A base image of the Dockerfile and the name of its build argument. */
type Base = { name: string; image: ImageReference }
type Flags = { file: string; registry?: string }

const BASE = /^ARG (\w+_BASE)=(\S+)$/gm
const DOCKERFILE = path.join(import.meta.dirname, '../../Dockerfile.gpu')

export const basesOf = (dockerfile: string): Base[] =>
  [...dockerfile.matchAll(BASE)].map(([, name, text]) => ({ name: name!, image: parseReference(text!) }))

/** Returns the line to print for a base image, and whether it is pinned to an image in the registry. */
async function checkBase({ name, image }: Base, registry?: string): Promise<{ line: string; good: boolean }> {
  if (image.digest === null) return { line: `${name}: ${formatReference(image)} is not pinned`, good: false }
  try {
    await resolveDigest(image, registry)
    const current = await resolveDigest({ ...image, digest: null }, registry)
    const newer = current === image.digest ? '' : `; the tag is now ${current}`
    return { line: `${name}: ${formatReference(image)} exists${newer}`, good: true }
  } catch (error) {
    return { line: `${name}: ${(error as Error).message}`, good: false }
  }
}

async function check({ file, registry }: Flags): Promise<void> {
  const bases = basesOf(await readFile(file, 'utf8'))
  const results = await Promise.all(bases.map((base) => checkBase(base, registry)))
  for (const { line } of results) console.log(line)
  if (results.some(({ good }) => !good)) throw new Error('run `npm run images -- pin` to pin the current digests')
}

async function pin({ file, registry }: Flags): Promise<void> {
  const before = await readFile(file, 'utf8')
  let text = before
  for (const { name, image } of basesOf(before)) {
    const pinned = { ...image, digest: await resolveDigest({ ...image, digest: null }, registry) }
    text = text.replace(`ARG ${name}=${formatReference(image)}`, `ARG ${name}=${formatReference(pinned)}`)
    console.log(`${name}: ${formatReference(pinned)}`)
  }
  if (text !== before) await writeFile(file, text)
  console.log(
    text === before ? 'Nothing has changed.' : `${path.relative(process.cwd(), file)} has changed: commit it.`,
  )
}

if (import.meta.main) {
  const program = new Command('images').description(
    'Checks and pins the digests of the base images of the GPU function.',
  )
  const addFlags = (command: Command) =>
    command
      .option('--file <path>', 'the Dockerfile', DOCKERFILE)
      .option('--registry <url>', 'a mirror of Docker Hub to use instead')
  addFlags(program.command('check', { isDefault: true }).description('compare the digests with the registry')).action(
    check,
  )
  addFlags(program.command('pin').description("pin each image to its tag's current digest")).action(pin)
  await program.parseAsync().catch((error: Error) => {
    printError('images', error)
    process.exitCode = 1
  })
}
