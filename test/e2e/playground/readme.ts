// The JavaScript example of the README. `npm run clients` runs the Python one.
import { execFile } from 'node:child_process'
import fs from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { world } from './world.ts'

const ROOT = path.join(import.meta.dirname, '../../..')

test("the README's example in JavaScript prints the link of an image", async () => {
  const [, code] = /```js\n(.*?)```/s.exec(await fs.readFile(path.join(ROOT, 'README.md'), 'utf8'))!
  const script = path.join(ROOT, '.octet/readme-example.mjs')
  await fs.writeFile(script, code!)
  const { url, key } = world.local
  const env = { ...process.env, OPENAI_BASE_URL: `${url}/v1`, OPENAI_API_KEY: key }
  const { stdout } = await promisify(execFile)(process.execPath, [script], { env }).finally(() => fs.rm(script))
  const image = await fetch(stdout.trim())
  expect([image.status, image.headers.get('content-type')]).toEqual([200, 'image/png'])
})
