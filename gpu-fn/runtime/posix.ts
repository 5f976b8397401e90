// Functions of the C library for files, through koffi, bound on first use because Windows lacks them.
import { koffi, loadLibrary } from './ffi.ts'
import type { Pointer } from './ort-api.ts'

/** POSIX_FADV_WILLNEED */
const WILL_NEED = 3

let functions: ReturnType<typeof bind> | undefined
let adviseFunction: ReturnType<typeof bindAdvise> | undefined

export const posix = () => (functions ??= bind())
const advise = () => (adviseFunction ??= bindAdvise())

const bindAdvise = () => loadLibrary(null).func('int posix_fadvise(int file, int64_t start, int64_t bytes, int advice)')

function bind() {
  const libc = loadLibrary(null)
  return {
    mmap: libc.func('void *mmap(void *address, size_t bytes, int protection, int flags, int file, int64_t offset)'),
    munmap: libc.func('int munmap(void *address, size_t bytes)'),
    pread: libc.func('int64_t pread(int file, void *to, size_t bytes, int64_t offset)'),
  }
}

/** Reads a range of an open file to native memory. Throws an Error if the file ends before its end. */
export function readInto(to: Pointer, descriptor: number, start: number, bytes: number): void {
  for (let done = 0; done < bytes; ) {
    const count = Number(posix().pread(descriptor, to + BigInt(done), bytes - done, start + done))
    if (count < 0) throw new Error(`a read at byte ${start + done} failed with error ${koffi.errno()}`)
    if (count === 0) throw new Error(`the file ends before byte ${start + bytes}`)
    done += count
  }
}

/**
 * Makes Linux read a range into the page cache, without waiting for it: with many such requests, a disk reads at its full rate. It has no
 * effect on other systems.
 */
export function requestRead(descriptor: number, start: number, bytes: number): void {
  if (process.platform === 'linux') advise()(descriptor, start, bytes, WILL_NEED)
}
