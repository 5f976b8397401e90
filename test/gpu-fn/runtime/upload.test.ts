// Uploads to host memory, with the threads and reads of those to a GPU.
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { loadLibrary } from '../../../gpu-fn/runtime/ffi.ts'
import { loadOrtApi, type Pointer } from '../../../gpu-fn/runtime/ort-api.ts'
import { uploadFile } from '../../../gpu-fn/runtime/upload/upload.ts'
import { useScratch } from '../../support/scratch.ts'

const scratch = useScratch()
/** Several chunks, and a part of one. */
const BYTES = (40 << 20) + 12_345

/** Native memory of this size. */
function allocate(bytes: number): Pointer {
  const libc = loadLibrary(null)
  const address = libc.func('void *malloc(size_t bytes)')(bytes) as Pointer
  onTestFinished(() => libc.func('void free(void *address)')(address))
  return address
}

function read(address: Pointer, bytes: number): Buffer {
  const data = Buffer.alloc(bytes)
  loadOrtApi().copy(data, address, bytes)
  return data
}

async function writeNoise(name: string, bytes: number) {
  const file = path.join(scratch.directory, name)
  const data = randomBytes(bytes)
  await writeFile(file, data)
  return { file, data }
}

test('files have the same bytes in memory, also several at once and parts of them', async () => {
  const sizes = [BYTES, 1, 8 << 20]
  const files = await Promise.all(sizes.map((bytes, i) => writeNoise(`${i}`, bytes)))
  const places = sizes.map((bytes) => allocate(bytes))
  await Promise.all(files.map(({ file }, i) => uploadFile({ gpu: null, file, to: places[i]!, bytes: sizes[i]! })))
  for (const [i, { data }] of files.entries()) expect(read(places[i]!, sizes[i]!).equals(data)).toBe(true)

  const half = allocate(BYTES)
  const { file, data } = files[0]!
  await uploadFile({ gpu: null, file, to: half, bytes: 9 << 20 })
  expect(read(half, 9 << 20).equals(data.subarray(0, 9 << 20))).toBe(true)
})

test('a file that is missing or too short fails with its name, and the next upload succeeds', async () => {
  const { file, data } = await writeNoise('short', 1000)
  const to = allocate(BYTES)
  await expect(uploadFile({ gpu: null, file: `${file}-none`, to, bytes: 10 })).rejects.toThrow(/short-none: ENOENT/)
  await expect(uploadFile({ gpu: null, file, to, bytes: BYTES })).rejects.toThrow(/short: the file ends before byte/)
  await uploadFile({ gpu: null, file, to, bytes: 1000 })
  expect(read(to, 1000).equals(data)).toBe(true)
})
