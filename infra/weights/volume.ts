// Uploads a package to a Modal volume with Modal's command. The manifest is last, because the GPU function ignores directories without one.
import { link, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { MANIFEST, openPackage } from '../../gpu-fn/weights/packages.ts'
import { makeScratch } from '../command/scratch.ts'
import { exec } from '../deploy/exec.ts'
import type { CommandLine } from '../deploy/plan.ts'

/** The commands, in order. `staging` holds the package without its manifest. */
function createVolumeCommands(volume: string, directory: string, staging: string): CommandLine[] {
  const at = `/${path.basename(directory)}`
  return [
    ['modal', 'volume', 'put', '--force', volume, staging, at],
    ['modal', 'volume', 'put', '--force', volume, path.join(directory, MANIFEST), `${at}/${MANIFEST}`],
  ]
}

/** Throws if Modal's command is missing or not logged in. */
export async function assertVolumeAccess(execute = exec): Promise<void> {
  await execute(['modal', 'token', 'info']).catch((cause: Error) => {
    throw new Error(`--volume needs Modal's command: ${cause.message}\nLog in with .octet/modal/bin/modal setup`, {
      cause,
    })
  })
}

/** Uploads the package at `directory` to /<its name> of a volume, which is created if necessary. Throws if a command fails. */
export async function putOnVolume(volume: string, directory: string, execute = exec): Promise<string> {
  const { manifest, directory: root, digest } = await openPackage(directory, { verify: true })
  await using scratch = makeScratch('.volume-', path.dirname(root))
  const staging = scratch.directory
  for (const name of Object.keys(manifest.files)) {
    await mkdir(path.dirname(path.join(staging, name)), { recursive: true })
    await link(path.join(root, name), path.join(staging, name))
  }
  const volumes = JSON.parse(await execute(['modal', 'volume', 'list', '--json'])) as Record<string, string>[]
  if (!volumes.some((each) => Object.values(each).includes(volume)))
    await execute(['modal', 'volume', 'create', volume])
  // Removes the old manifest first, because it would declare a partial upload to be the old package.
  await execute(['modal', 'volume', 'rm', volume, `/${path.basename(root)}/${MANIFEST}`]).catch(() => {})
  const onLine = (line: string) => console.error(`   ${line}`)
  for (const command of createVolumeCommands(volume, root, staging)) await execute(command, { onLine })
  return `volume ${volume}: package ${digest} is at /${path.basename(root)}`
}
