// Encodes pixels as an image file with its generation parameters.
import sharp from 'sharp'
import * as z from 'zod'
import { imageOptionFields, type JobRequest, LIMITS, loraChoice } from '../contract.ts'
import { NonFiniteError } from './non-finite.ts'
import { encodePng } from './png.ts'

export type ImageFormat = JobRequest['output_format']

const generationParameters = z.strictObject({
  /** This and the other prompts are absent in files without prompts. */
  prompt: z.string().optional(),
  prompt_2: z.string().optional(),
  prompt_3: z.string().optional(),
  negative_prompt: z.string().optional(),
  seed: z.union([z.int(), z.string()]),
  steps: z.int(),
  guidance_scale: z.number(),
  width: z.int(),
  height: z.int(),
  text_convention: z.string(),
  ...imageOptionFields,
  loras: z.array(loraChoice).optional(),
  model: z.string(),
  tier: z.string(),
  /** Digest of the package. */
  package: z.string(),
  tool: z.string(),
})
/** The parameters that reproduce an image; without prompts if its request has `prompt_metadata: false`. */
export type GenerationParameters = z.infer<typeof generationParameters>

/**
 * Planes [3, height, width] of about -1 to 1 as interleaved 8-bit RGB, rounded half to even as in diffusers and numpy. Throws if the model
 * produces NaN or infinity.
 */
export function toPixels(planes: Float32Array, width: number, height: number): Uint8Array {
  const area = width * height
  const pixels = new Uint8ClampedArray(3 * area)
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < area; i++) {
      const value = planes[channel * area + i]!
      if (!Number.isFinite(value)) throw new NonFiniteError('the decoded image')
      // Uint8ClampedArray clamps, and rounds half to even.
      pixels[3 * i + channel] = Math.fround(255 * Math.fround(Math.fround(value / 2) + 0.5))
    }
  }
  return new Uint8Array(pixels.buffer)
}

/**
 * An image file with its parameters as XMP. `quality` (1 to 100) does not apply to PNG, which is lossless and deterministic;
 * contract.ts bounds PNGs by their dimensions. A JPEG or WebP larger than `limit` bytes is encoded again at a lower quality.
 */
export async function encodeImage(
  pixels: Uint8Array,
  output: { format: ImageFormat; quality: number; hasInput?: boolean },
  parameters: GenerationParameters,
  limit: number = LIMITS.imageBytes,
): Promise<Uint8Array> {
  const { width, height } = parameters
  const { format, hasInput = false } = output
  const xmp = createXmpPacket(parameters, format, chooseDigitalSourceType(hasInput))
  if (format === 'png') return encodePng(pixels, width, height, xmp)
  return encodeWithin(limit, output.quality, (quality) => {
    const image = sharp(pixels, { raw: { width, height, channels: 3 } }).withXmp(xmp)
    if (format === 'webp') return image.webp({ quality }).toBuffer()
    // Chroma subsampling is visible on text and edges, so it is disabled at quality 90 and above.
    return image.jpeg({ quality, chromaSubsampling: quality >= 90 ? '4:4:4' : '4:2:0' }).toBuffer()
  })
}

/** Encodes at `quality`, then at decreasing quality until the file has at most `limit` bytes. Throws if even quality 1 is too large. */
export async function encodeWithin(
  limit: number,
  quality: number,
  encode: (quality: number) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const file = await encode(quality)
  if (file.byteLength <= limit) return file
  if (quality === 1)
    throw new Error(`the image has ${file.byteLength} bytes at quality 1; at most ${limit} are allowed`)
  return encodeWithin(limit, Math.max(1, Math.floor(quality * Math.min(0.9, limit / file.byteLength))), encode)
}

/** The parameters that `encodeImage` wrote; null for a file without them. */
export async function readParameters(file: Uint8Array): Promise<GenerationParameters | null> {
  const { xmpAsString } = await sharp(file).metadata()
  const json = xmpAsString?.match(/<octet:parameters>([^<]*)<\/octet:parameters>/)?.[1]
  if (json === undefined) return null
  const parsed = generationParameters.safeParse(JSON.parse(unescapeXml(json)))
  return parsed.success ? parsed.data : null
}

/** JPEG stores XMP in one segment. libvips silently omits packets over 60,000 bytes. */
const JPEG_PACKET_BYTES = 60_000
const PROMPTS = ['prompt', 'negative_prompt', 'prompt_2', 'prompt_3'] as const
const PROMPT_INFORMATION_CHARACTERS = 1_000

/** An XMP packet. For a JPEG, prompts are shortened to fit and end in "…". */
function createXmpPacket(parameters: GenerationParameters, format: ImageFormat, source: string): string {
  const xml = packetOf(parameters, source)
  if (format !== 'jpeg' || Buffer.byteLength(xml) <= JPEG_PACKET_BYTES) return xml
  const lengthOf = (role: (typeof PROMPTS)[number]) => parameters[role]?.length ?? 0
  const longest = PROMPTS.reduce((a, b) => (lengthOf(b) > lengthOf(a) ? b : a))
  const kept = parameters[longest]?.slice(0, lengthOf(longest) >> 1) ?? ''
  return createXmpPacket({ ...parameters, [longest]: `${kept.trimEnd()}…` }, format, source)
}

/** IPTC's terms for an image that a model created from text, or from text and an input image. C2PA uses the same terms, with `http`. */
export const chooseDigitalSourceType = (hasInput: boolean): string =>
  `http://cv.iptc.org/newscodes/digitalsourcetype/${hasInput ? 'compositeWithTrainedAlgorithmicMedia' : 'trainedAlgorithmicMedia'}`

/** IPTC Photo Metadata 2025.1 for other tools; `octet:parameters` for the exact values. */
function packetOf(parameters: GenerationParameters, source: string): string {
  const { prompt, tool, model, tier } = parameters
  // JSON escapes represent the control characters and lone surrogates that XML cannot.
  const json = JSON.stringify(parameters).replace(/[\ufffe\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16)}`)
  const readable = prompt?.slice(0, PROMPT_INFORMATION_CHARACTERS).toWellFormed().replace(UNFIT_FOR_XML, '\ufffd')
  const information =
    readable === undefined
      ? ''
      : `\n<Iptc4xmpExt:AIPromptInformation>${escapeXml(readable)}</Iptc4xmpExt:AIPromptInformation>`
  return `<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:octet="urn:octet:parameters:1">
<xmp:CreatorTool>${escapeXml(tool)}</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>${source}</Iptc4xmpExt:DigitalSourceType>
<Iptc4xmpExt:AISystemUsed>Octet (${escapeXml(`${model}, ${tier}`)})</Iptc4xmpExt:AISystemUsed>${information}
<octet:parameters>${escapeXml(json)}</octet:parameters>
</rdf:Description></rdf:RDF></x:xmpmeta>`
}

const UNFIT_FOR_XML = /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu
const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' }

function escapeXml(text: string): string {
  return text.replace(/[&<>]/g, (character) => ENTITIES[character]!)
}

function unescapeXml(text: string): string {
  return text.replace(/&(?:amp|lt|gt);/g, (entity) => Object.keys(ENTITIES).find((key) => ENTITIES[key] === entity)!)
}
