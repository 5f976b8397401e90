import type { JobRequest } from './requests.ts'

/** The signature of each kind of file, as text, which begins at byte `offset`. */
const SIGNATURES: readonly { kind: string; bytes: string; offset?: number }[] = [
  { kind: 'PNG', bytes: '\x89PNG\r\n\x1a\n' },
  { kind: 'JPEG', bytes: '\xff\xd8\xff' },
  { kind: 'WebP', bytes: 'WEBP', offset: 8 },
  { kind: 'GIF', bytes: 'GIF87a' },
  { kind: 'GIF', bytes: 'GIF89a' },
  ...[8, 16, 20, 24, 28].flatMap((offset) => ['avif', 'avis'].map((bytes) => ({ kind: 'AVIF', bytes, offset }))),
  { kind: 'HEIC or a video', bytes: 'ftyp', offset: 4 },
  { kind: 'TIFF or a raw photograph', bytes: 'II*\0' },
  { kind: 'TIFF or a raw photograph', bytes: 'MM\0*' },
  { kind: 'BMP', bytes: 'BM' },
  { kind: 'PDF', bytes: '%PDF' },
  { kind: 'JPEG XL', bytes: '\xff\x0a' },
  { kind: 'JPEG XL', bytes: 'JXL ', offset: 4 },
  { kind: 'PSD', bytes: '8BPS' },
]
/** The kinds of input images. */
const INPUT_KINDS = ['PNG', 'JPEG', 'WebP', 'GIF', 'AVIF']
/** The bytes of a file that decide its kind. */
const SIGNATURE_BYTES = 64

/** Error message if the first bytes of a file are not those of an image that is supported, else null. */
export function describeKind(file: Uint8Array): string | null {
  const start = String.fromCharCode(...file.subarray(0, SIGNATURE_BYTES))
  const found = SIGNATURES.find(({ bytes, offset = 0 }) => start.startsWith(bytes, offset))
  // A byte order mark and spaces may precede markup.
  const isMarkup = /^\W{0,32}<[\w!?]/.test(start)
  const kind = found?.kind ?? (isMarkup ? 'SVG, XML or HTML' : 'of an unknown type')
  return INPUT_KINDS.includes(kind) ? null : `the file is ${kind}; allowed: ${INPUT_KINDS.join(', ')}`
}

/** The fields that need an input image. */
export const IMAGE_FIELDS = ['strength', 'repaint', 'mask_feather'] as const

type InputImageFields = Pick<JobRequest, 'inputs' | 'controls' | 'image_fit' | (typeof IMAGE_FIELDS)[number]>

/** Error message if the fields about input images contradict each other, else null. */
export function describeInputs(request: InputImageFields): string | null {
  const names = (request.inputs ?? []).map(({ name }) => name)
  const hasImage = names.includes('image')
  const field = IMAGE_FIELDS.find((name) => request[name] !== undefined)
  if (!hasImage && field) return `${field} was given without an image: give both or neither`
  if (names.length === 0 && request.image_fit) return 'image_fit was given without an image: give both or neither'
  if (!hasImage && names.includes('mask')) return 'mask was given without an image: give both or neither'
  if (names.includes('control') !== (request.controls !== undefined))
    return 'controls and the input control go together: give both or neither'
  if (hasImage && names[0] !== 'image') return 'the first of inputs must be the image'
  if (new Set(names).size < names.length) return `inputs has ${names.join(' and ')}: each may be given once`
  if (request.mask_feather && !names.includes('mask') && request.repaint !== 'transparent')
    return 'mask_feather was given without a mask: give a mask, or repaint "transparent" for that of the image'
  return null
}
