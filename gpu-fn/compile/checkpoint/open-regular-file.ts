// Opens the files of a checkpoint, which are untrusted: a pipe or a device would block the compiler, and a huge file would fill its memory.
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { CheckpointError } from './error.ts'

/** Opens a regular file for reading, through links. Throws CheckpointError for a missing file and for any other kind of file. */
export async function openRegularFile(file: string): Promise<FileHandle> {
  // Without O_NONBLOCK, opening a pipe would wait for a writer.
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK).catch((cause: NodeJS.ErrnoException) => {
    throw new CheckpointError(file, `cannot be opened (${cause.code})`, { cause })
  })
  if ((await handle.stat()).isFile()) return handle
  await handle.close()
  throw new CheckpointError(file, 'is not a regular file')
}

/** The bytes of a regular file of at most `maxBytes`. Throws CheckpointError. */
export async function readRegularFile(file: string, maxBytes: number): Promise<Uint8Array> {
  await using handle = await openRegularFile(file)
  const { size } = await handle.stat()
  if (size > maxBytes) throw new CheckpointError(file, `has ${size} bytes; at most ${maxBytes} are allowed`)
  const bytes = new Uint8Array(size)
  const { bytesRead } = await handle.read(bytes, 0, size, 0)
  if (bytesRead === size) return bytes
  throw new CheckpointError(file, `ended after ${bytesRead} of ${size} bytes; the file may have changed`)
}
