// Contact sheet for visual inspection: the natural-prompt images of one configuration as one JPEG with captions.
import path from 'node:path'
import sharp, { type OverlayOptions } from 'sharp'
import type { QualityPrompt } from './prompts.ts'

const COLUMNS = 10
const SIDE = 256
const GAP = 8
/** Height of a caption of three lines. */
const CAPTION = 56

const escapeMarkup = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')

/**
 * Combines the images `0.png`, `1.png` and so on of a directory at full size. Captions of images evaluated by the judge begin with ✓ or ✗.
 */
export async function writeContactSheet(
  file: string,
  prompts: readonly QualityPrompt[],
  shown: readonly (boolean | null)[],
  directory: string,
): Promise<void> {
  const tiles = prompts.flatMap(({ prompt }, i): OverlayOptions[] => {
    const left = (i % COLUMNS) * (SIDE + GAP)
    const top = Math.floor(i / COLUMNS) * (SIDE + CAPTION)
    const mark = shown[i] === null ? '' : shown[i] ? '✓ ' : '✗ '
    const text = `${mark}${escapeMarkup(prompt)}`
    const caption = { text: { text, width: SIDE, dpi: 96, font: 'sans 10', align: 'centre', rgba: true } } as const
    return [
      { input: path.join(directory, `${i}.png`), left, top },
      { input: caption, left, top: top + SIDE + GAP / 2 },
    ]
  })
  const columns = Math.min(COLUMNS, prompts.length)
  const rows = Math.ceil(prompts.length / COLUMNS)
  await sharp({
    create: { width: columns * (SIDE + GAP) - GAP, height: rows * (SIDE + CAPTION), channels: 3, background: 'white' },
  })
    .composite(tiles)
    .jpeg({ quality: 88 })
    .toFile(file)
}
