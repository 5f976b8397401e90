// The machine-readable marks of an image file: IPTC's fields in its XMP, and its content credentials (C2PA). Files are untrusted: sizes are
// checked before use, and reading ends at the first part that does not fit into the file.
import { CONTENT_TYPES } from '#contract'

export type Marks = {
  content_type: (typeof CONTENT_TYPES)[keyof typeof CONTENT_TYPES]
  /** Null if the XMP or the field is missing. */
  digital_source_type: string | null
  ai_system_used: string | null
  /** Bytes of the C2PA manifest store; 0 without one. */
  c2pa_bytes: number
}

/** A part of a file: a PNG chunk, a JPEG segment or a RIFF chunk. */
type Part = { type: string; data: Uint8Array }

/** Maximum number of parts that are read, several times that of any real file: millions of empty parts would take seconds. */
const MAX_PARTS = 20_000

/** A few bytes as characters of the same number. TextDecoder has no such encoding. */
const textOf = (bytes: Uint8Array, start: number, end: number) => String.fromCharCode(...bytes.subarray(start, end))

const PNG_START = 8
/** Length and type before the data of a chunk, and its checksum. */
const PNG_CHUNK = { head: 8, tail: 4 }

function* readPngChunks(file: Uint8Array): Generator<Part> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  for (let at = PNG_START; at + PNG_CHUNK.head <= file.length; ) {
    const start = at + PNG_CHUNK.head
    const end = start + view.getUint32(at)
    if (end > file.length) return
    yield { type: textOf(file, at + 4, start), data: file.subarray(start, end) }
    at = end + PNG_CHUNK.tail
  }
}

const MARKER = 0xff
const START_OF_SCAN = 0xda

/** The segments before the pixels. */
function* readJpegSegments(file: Uint8Array): Generator<Part> {
  for (let at = 2; at + 4 <= file.length && file[at] === MARKER; ) {
    const marker = file[at + 1]!
    const end = at + 2 + ((file[at + 2]! << 8) | file[at + 3]!)
    if (marker === START_OF_SCAN || end < at + 4 || end > file.length) return
    yield { type: marker.toString(16), data: file.subarray(at + 4, end) }
    at = end
  }
}

function* readRiffChunks(file: Uint8Array): Generator<Part> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  for (let at = 12; at + 8 <= file.length; ) {
    const size = view.getUint32(at + 4, true)
    const end = at + 8 + size
    if (end > file.length) return
    yield { type: textOf(file, at, at + 4), data: file.subarray(at + 8, end) }
    at = end + (size & 1)
  }
}

/** XMP specification, part 3, §1.1.3 and §1.1.5: the identifiers before a packet. */
const PNG_XMP = 'XML:com.adobe.xmp\0\0\0\0\0'
const JPEG_XMP = 'http://ns.adobe.com/xap/1.0/\0'
/** In an APP11 segment: "JP", the number of its box and of its part, length and type of the box (C2PA 2.2 §A.3.1). */
const JPEG_BOX = { head: 16, type: 'jumb', at: 12 }

const sliceAfter = (data: Uint8Array, start: string) =>
  textOf(data, 0, start.length) === start ? data.subarray(start.length) : null

type FoundMarks = { xmp: Uint8Array | null; c2pa: number }

function findInPng(file: Uint8Array): FoundMarks {
  const found: FoundMarks = { xmp: null, c2pa: 0 }
  for (const { type, data } of readPngChunks(file).take(MAX_PARTS)) {
    if (type === 'iTXt') found.xmp ??= sliceAfter(data, PNG_XMP)
    if (type === 'caBX') found.c2pa += data.length
  }
  return found
}

function findInJpeg(file: Uint8Array): FoundMarks {
  const found: FoundMarks = { xmp: null, c2pa: 0 }
  for (const { type, data } of readJpegSegments(file).take(MAX_PARTS)) {
    if (type === 'e1') found.xmp ??= sliceAfter(data, JPEG_XMP)
    const box = type === 'eb' && textOf(data, 0, 2) === 'JP' && textOf(data, JPEG_BOX.at, JPEG_BOX.head)
    if (box === JPEG_BOX.type) found.c2pa += data.length - JPEG_BOX.head
  }
  return found
}

function findInWebp(file: Uint8Array): FoundMarks {
  const found: FoundMarks = { xmp: null, c2pa: 0 }
  for (const { type, data } of readRiffChunks(file).take(MAX_PARTS)) {
    if (type === 'XMP ') found.xmp ??= data
    if (type === 'C2PA') found.c2pa += data.length
  }
  return found
}

const FIELD_CHARACTERS = 500

/** A simple field of XMP, written as an element or as an attribute; null if it is missing. */
function fieldOf(xmp: string, name: string): string | null {
  const start = xmp.indexOf(name)
  const from = start + name.length
  const end = { '>': '<', '=': xmp[from + 1] }[xmp[from] ?? '']
  if (start < 0 || end === undefined) return null
  const begin = xmp[from] === '=' ? from + 2 : from + 1
  const stop = xmp.indexOf(end, begin)
  return stop < 0 ? null : unescapeXml(xmp.slice(begin, stop)).slice(0, FIELD_CHARACTERS)
}

const unescapeXml = (text: string) => text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&amp;', '&')

const FORMATS = [
  {
    type: CONTENT_TYPES.png,
    is: (file: Uint8Array) => textOf(file, 0, PNG_START) === '\x89PNG\r\n\x1a\n',
    find: findInPng,
  },
  { type: CONTENT_TYPES.jpeg, is: (file: Uint8Array) => textOf(file, 0, 3) === '\xff\xd8\xff', find: findInJpeg },
  {
    type: CONTENT_TYPES.webp,
    is: (file: Uint8Array) => textOf(file, 0, 4) === 'RIFF' && textOf(file, 8, 12) === 'WEBP',
    find: findInWebp,
  },
]

/** The marks of a file; null if it is neither PNG, JPEG nor WebP. */
export function readMarks(file: Uint8Array): Marks | null {
  const format = FORMATS.find(({ is }) => is(file))
  if (!format) return null
  const { xmp, c2pa } = format.find(file)
  const text = xmp ? new TextDecoder().decode(xmp) : ''
  return {
    content_type: format.type,
    digital_source_type: fieldOf(text, 'Iptc4xmpExt:DigitalSourceType'),
    ai_system_used: fieldOf(text, 'Iptc4xmpExt:AISystemUsed'),
    c2pa_bytes: c2pa,
  }
}
