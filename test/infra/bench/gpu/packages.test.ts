import { mkdtemp, readFile, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { openPackage } from '../../../../gpu-fn/weights/packages.ts'
import { omitT5 } from '../../../../infra/bench/gpu/packages.ts'
import { compileTiny } from '../../../support/checkpoints/compile.ts'

test('an fp8 package without T5 is the fp8-lite package, file by file', async () => {
  const scratch = await mkdtemp(path.join(os.tmpdir(), 'octet-lite-'))
  onTestFinished(() => rm(scratch, { recursive: true }))
  const out = path.join(scratch, 'package')
  await omitT5(await compileTiny({ tier: 'fp8', t5Layers: 1 }), out)
  const lite = await openPackage(out, { verify: true })
  const compiled = await openPackage(await compileTiny({ tier: 'fp8-lite' }))
  // `source` is a digest of the input, which includes T5.
  expect({ ...lite.manifest, source: '' }).toEqual({ ...compiled.manifest, source: '' })
  expect(await readFile(path.join(out, 'manifest.json'), 'utf8')).toContain('"tier": "fp8-lite"')
})
