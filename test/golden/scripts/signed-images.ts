// test/golden/credentials/signed-images.json: a 16 × 16 image in each format with XMP and content credentials, as base64. Made with
// @contentauth/c2pa-node 0.8.0.
//   npm run credentials:setup && node test/golden/scripts/signed-images.ts
import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { CONTENT_TYPES, OUTPUT_FORMATS } from '../../../gpu-fn/contract.ts'
import { openSigner } from '../../../gpu-fn/credentials/signer.ts'
import { encodeImage } from '../../../gpu-fn/pipeline/image.ts'

const directory = path.join(import.meta.dirname, '../credentials')
const read = (name: string) => readFile(path.join(directory, name), 'utf8')
const signer = await openSigner({ certificates: await read('es256.pem'), key: await read('es256-key.pem') })
const parameters = {
  ...{ prompt: 'a red heart & <more>', negative_prompt: '', seed: 1, steps: 4, guidance_scale: 1, width: 16, height: 16 },
  ...{ text_convention: 'diffusers', model: 'nano', tier: 'fp8', package: 'a'.repeat(64), tool: 'octet' },
}
const files: Record<string, string> = {}
for (const format of OUTPUT_FORMATS) {
  const file = await encodeImage(new Uint8Array(16 * 16 * 3), { format, quality: 90 }, parameters)
  files[format] = Buffer.from(await signer.sign(file, CONTENT_TYPES[format])).toString('base64')
}
await writeFile(path.join(directory, 'signed-images.json'), `${JSON.stringify(files, null, 2)}\n`)
// The signer keeps the process running.
process.exit()
