// Encodes a PNG with Rust's `png`, which takes a third to a seventh of sharp's time and produces smaller files: npm run bench -- png.
import { crc32 } from 'node:zlib'
import { CompressionType, FilterType, Transformer } from '@napi-rs/image'

/** Signature and IHDR; the recommended place for XMP is after them. */
const HEADER_BYTES = 33

/** Interleaved 8-bit RGB as a PNG with an XMP packet; deterministic. */
export async function encodePng(pixels: Uint8Array, width: number, height: number, xmp: string): Promise<Uint8Array> {
  const portablePixmap = Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), pixels])
  const options = { compressionType: CompressionType.Fast, filterType: FilterType.Paeth }
  const png = await new Transformer(portablePixmap).png(options)
  return Buffer.concat([png.subarray(0, HEADER_BYTES), encodeXmpChunk(xmp), png.subarray(HEADER_BYTES)])
}

/** An iTXt chunk, uncompressed and without a language. PNG Third Edition, 11.3.3.4; XMP Specification Part 3, 1.1.5. */
function encodeXmpChunk(xmp: string): Buffer {
  const body = Buffer.from(`iTXtXML:com.adobe.xmp\0\0\0\0\0${xmp}`)
  const chunk = Buffer.alloc(4 + body.length + 4)
  chunk.writeUInt32BE(body.length - 4, 0)
  body.copy(chunk, 4)
  chunk.writeUInt32BE(crc32(body), 4 + body.length)
  return chunk
}
