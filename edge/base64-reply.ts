// A JSON reply with files in base64, made chunk by chunk: the files of one request may be larger than an isolate's memory.

/** Bytes that are read at a time. A multiple of 3, so that the base64 of the chunks is that of the whole file. */
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

async function* piecesOf(texts: string[], open: (index: number) => Promise<ReadableStream>) {
  for (const [index, text] of texts.entries()) {
    if (index > 0) yield* base64Of(await open(index - 1))
    yield utf8.encode(text)
  }
}

/**
 * The JSON text of what `bodyWith` makes, as a stream. `bodyWith` is given a mark and puts it, as a string, where the base64 of a file
 * belongs; `open` is asked for the files in the order of these marks, one at a time.
 */
export function streamJson(
  bodyWith: (mark: string) => unknown,
  open: (index: number) => Promise<ReadableStream>,
): ReadableStream<Uint8Array> {
  const mark = crypto.randomUUID()
  const pieces = piecesOf(JSON.stringify(bodyWith(mark)).split(mark), open)
  return new ReadableStream({
    type: 'bytes',
    async pull(controller) {
      const { done, value } = await pieces.next()
      if (!done) return controller.enqueue(value)
      controller.close()
      // A reader that brought its own buffer waits until that is handed back.
      controller.byobRequest?.respond(0)
    },
    async cancel() {
      await pieces.return()
    },
  })
}
