import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createNoise, writeFakePackage } from '../../../infra/checkpoints/fake-package.ts'
import { putOnVolume } from '../../../infra/weights/volume.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()

/** Puts a package on a volume of a workspace that has `volumes`; returns the commands, with the files that a directory had. */
async function collectCommands(volumes: string[]) {
  const at = path.join(scratch.directory, 'large-turbo-fp8')
  await writeFakePackage(at, { 'transformer.bin': createNoise(100), 'tokenizer/vocab.json': createNoise(10) })
  const commands: string[] = []
  await putOnVolume('octet-weights', at, async (command) => {
    const line = command.map((part) => (part.startsWith(scratch.directory) ? path.basename(part) : part))
    const staged = command.find((part) => path.basename(part).startsWith('.volume-'))
    const files = staged ? (await readdir(staged, { recursive: true })).sort() : []
    commands.push([...line.map((part) => part.replace(/^\.volume-.*/, 'STAGED')), ...files].join(' '))
    if (command.includes('rm')) throw new Error('no such file')
    return JSON.stringify(volumes.map((name) => ({ Name: name })))
  })
  return { commands, left: await readdir(scratch.directory) }
}

test('the manifest is uploaded last, into a volume that is created if necessary', async () => {
  const { commands, left } = await collectCommands(['other'])
  expect(commands).toEqual([
    'modal volume list --json',
    'modal volume create octet-weights',
    'modal volume rm octet-weights /large-turbo-fp8/manifest.json',
    'modal volume put --force octet-weights STAGED /large-turbo-fp8 conditioning.onnx tokenizer tokenizer/vocab.json transformer.bin transformer.onnx vae_decoder.onnx',
    'modal volume put --force octet-weights manifest.json /large-turbo-fp8/manifest.json',
  ])
  expect(left).toEqual(['large-turbo-fp8'])
})

test('an existing volume is not created again', async () => {
  expect((await collectCommands(['octet-weights'])).commands.join('\n')).not.toContain('create')
})
