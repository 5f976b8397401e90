// The kinds of files by their first bytes: the formats of checkpoints, and files that are not checkpoints.
import { CheckpointError, quote } from '../error.ts'
import { openRegularFile, readRegularFile } from '../open-regular-file.ts'

const HEAD_BYTES = 1024

/** The format of a file by its first bytes. Throws CheckpointError for files that are known not to be checkpoints. */
export async function identifyFormat(file: string): Promise<'gguf' | 'safetensors'> {
  await using handle = await openRegularFile(file)
  const head = Buffer.alloc(HEAD_BYTES)
  const { bytesRead } = await handle.read(head, 0, head.length, 0)
  const start = head.subarray(0, bytesRead)
  if (start.subarray(0, 4).equals(Buffer.from('GGUF'))) return 'gguf'
  // After 8 bytes with the length of its header, a safetensors file has JSON.
  if (start[8] === 0x7b && start[7] === 0) return 'safetensors'
  const problem = describeForeign(start)
  if (problem) throw new CheckpointError(file, problem)
  // No header has 2^56 bytes.
  if (start.length > 8 && start[7] !== 0 && start[8] !== 0x7b) {
    const shown = quote(start.subarray(0, 16).toString('latin1'))
    throw new CheckpointError(
      file,
      `begins with ${shown}, so it is neither a safetensors nor a GGUF file; download it again, or give another file`,
    )
  }
  return 'safetensors'
}

/**
 * The bytes of a settings or tokenizer file of at most `maxBytes`. Throws CheckpointError, including for the remnants of a failed download.
 */
export async function readSmallFile(file: string, maxBytes: number): Promise<Uint8Array> {
  const bytes = await readRegularFile(file, maxBytes)
  const problem = describeForeign(Buffer.from(bytes.subarray(0, HEAD_BYTES)))
  if (problem) throw new CheckpointError(file, problem)
  return bytes
}

const PICKLE =
  'is a PyTorch pickle (.ckpt, .pt, .bin), which can run any code when it is read; ' +
  'use the safetensors file of the same model, or convert it at https://huggingface.co/spaces/safetensors/convert'
const GATED =
  'A gated model sends one: accept its license on its page, log in with `hf auth login`, and download the file again'

const MAGIC_BYTES: readonly (readonly [bytes: readonly number[], problem: string])[] = [
  [[0x66, 0x74, 0x72, 0x74], 'is a TensorRT engine, which has no readable weights; compile the checkpoint behind it'],
  [[0x1f, 0x8b], 'is a gzip archive; unpack it'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'is a Zstandard archive; unpack it'],
  [[0x37, 0x7a, 0xbc, 0xaf], 'is a 7z archive; unpack it'],
  [[0x52, 0x61, 0x72, 0x21], 'is a RAR archive; unpack it'],
]

/** Describes known kinds of files that are not checkpoints, with advice for each. */
function describeForeign(head: Buffer): string | undefined {
  if (head.length === 0) return 'is empty: its download did not finish; download it again'
  const text = head.toString('latin1')
  if (text.startsWith('version https://git-lfs')) {
    const size = /^size (\d{1,16})$/m.exec(text)?.[1] ?? 'unknown size'
    return `is a Git LFS pointer (to ${size} bytes) and not the file itself; fetch it with \`git lfs pull\` or \`hf download\``
  }
  if (/^\s*<(!doctype html|html|\?xml)/i.test(text)) return `is a web page and not a checkpoint. ${GATED}`
  if (/^(\{"error"|Access to model|Invalid (username|credentials)|Entry not found|Repository not found)/.test(text))
    return `is an error message, ${quote(text.split('\n')[0]!)}, and not a checkpoint. ${GATED}`
  if (text.startsWith('PK\u0003\u0004')) return text.includes('data.pkl') ? PICKLE : 'is a ZIP archive; unpack it'
  if (head[0] === 0x80 && head[1]! >= 2 && head[1]! <= 5) return PICKLE
  // ONNX: the protobuf fields ir_version, then producer_name, graph or opset_import.
  if (head[0] === 8 && head[1]! <= 32 && [0x12, 0x3a, 0x42].includes(head[2]!))
    return 'is an ONNX graph; give the checkpoint that it was exported from'
  return MAGIC_BYTES.find(([bytes]) => bytes.every((byte, i) => head[i] === byte))?.[1]
}
