// `npm run pictures`: the sample images of the README, by nano and nano-turbo in FP8; with --lora those of an adapter.
import fs from 'node:fs/promises'
import path from 'node:path'
import { Command } from 'commander'
import sharp, { type OverlayOptions } from 'sharp'
import { openLora } from '../../gpu-fn/weights/additions/lora-packages.ts'
import { endOnSignals } from '../command/end-on-signals.ts'
import { parseWholeNumber } from '../command/numbers.ts'
import { type BUILT_IN_MODELS, prepareBuiltInPackage } from './models/built-in-model.ts'
import { render, withPipeline } from './models/render.ts'

const PROMPTS = [
  'a red heart on a blue background',
  'three strawberries on a white background',
  'a cat left of a Christmas tree, in the snow',
  'a rocket in the night sky',
  'an octopus in the sea',
  'a sunflower on the grass',
]
const SIDE = 192
const GAP = 8
const CAPTION = 44

const { out, seed, lora } = new Command('pictures')
  .description('Generates images of six prompts with nano and nano-turbo as one JPEG with captions.')
  .option('--out <file>', 'output file, a .jpg', 'docs/nano.jpg')
  .option('--lora <name>', "an example adapter of nano: nano's images without it and with it, in place of nano-turbo's")
  .option('--seed <number>', 'seed of the first prompt, incremented for each prompt', parseWholeNumber, 1)
  .parse()
  .opts<{ out: string; seed: number; lora?: string }>()

const placeAt = (column: number, row: number) => ({ left: column * (SIDE + GAP), top: row * (SIDE + GAP) })

async function drawRow(
  model: (typeof BUILT_IN_MODELS)[number],
  row: number,
  adapter?: string,
): Promise<OverlayOptions[]> {
  const directory = await prepareBuiltInPackage(model, 'fp8')
  return withPipeline(directory, async (pipeline) => {
    if (adapter !== undefined)
      await pipeline.adapt([{ lora: await openLora(path.join(directory, '../loras', adapter)), scale: 1 }])
    const pictures: OverlayOptions[] = []
    for (const [column, prompt] of PROMPTS.entries()) {
      const file = await render(pipeline, { prompt, seed: seed + column })
      pictures.push({ input: await sharp(file).resize(SIDE).toBuffer(), ...placeAt(column, row) })
    }
    return pictures
  })
}

const captions: OverlayOptions[] = PROMPTS.map((text, column) => ({
  input: { text: { text, width: SIDE, dpi: 96, font: 'sans 11', align: 'centre', rgba: true } },
  ...placeAt(column, 2),
}))

endOnSignals()
const rows = [await drawRow('nano', 0), await (lora ? drawRow('nano', 1, lora) : drawRow('nano-turbo', 1))]
const size = { width: PROMPTS.length * (SIDE + GAP) - GAP, height: 2 * (SIDE + GAP) + CAPTION }
await fs.mkdir(path.dirname(out), { recursive: true })
await sharp({ create: { ...size, channels: 3, background: 'white' } })
  .composite([...rows.flat(), ...captions])
  .jpeg({ quality: 88 })
  .toFile(out)
console.log(`${path.resolve(out)}: ${PROMPTS.join('; ')}`)
