// Streams a JSON response with base64-encoded files, because the files of one request may exceed the memory of an isolate.

/** The chunk size. A multiple of 3, so that the concatenated base64 chunks equal the base64 of the whole file. */
export const CHUNK_BYTES = 3 * 16 * 1024

const utf8 = new TextEncoder()

async function* base64Of(file: ReadableStream): AsyncGenerator<Uint8Array> {
  const reader = file.getReader({ mode: 'byob' })
  let buffer = new ArrayBuffer(CHUNK_BYTES)
  try {
    for (;;) {
      const { done, value } = await reader.readAtLeast(CHUNK_BYTES, new Uint8Array(buffer))
      if (value && value.byteLength > 0) yield utf8.encode(value.toBase64())
      if (done || value.byteLength < CHUNK_BYTES) return
      buffer = value.buffer
    }
  } finally {
    await reader.cancel()
  }
}

/** Text pieces with the base64 of one file between each pair of pieces. */
export async function* piecesOf(texts: string[], open: (index: number) => Promise<ReadableStream>) {
  for (const [index, text] of texts.entries()) {
    if (index > 0) yield* base64Of(await open(index - 1))
    yield utf8.encode(text)
  }
}

/**
 * Streams the JSON text of the body returned by `bodyWith`. `bodyWith` receives a placeholder and uses it as the string value of each
 * file; `open` is called for one file at a time, in the order of the placeholders.
 */
export function streamJson(
  bodyWith: (placeholder: string) => unknown,
  open: (index: number) => Promise<ReadableStream>,
): ReadableStream<Uint8Array> {
  const placeholder = crypto.randomUUID()
  return streamOf(piecesOf(JSON.stringify(bodyWith(placeholder)).split(placeholder), open))
}

/** A stream of the generator's pieces. Its cancellation ends the generator. */
export function streamOf(pieces: AsyncGenerator<Uint8Array, void>): ReadableStream<Uint8Array> {
  return new ReadableStream({
    type: 'bytes',
    async pull(controller) {
      const { done, value } = await pieces.next()
      if (!done) return controller.enqueue(value)
      controller.close()
      // A pending BYOB read resolves only after a response to its request.
      controller.byobRequest?.respond(0)
    },
    async cancel() {
      await pieces.return()
    },
  })
}
