// Finds, checks and reads the tokenizer of each text encoder.
import fs from 'node:fs/promises'
import path from 'node:path'
import type { TextEncoderManifest } from '../../manifest.ts'
import { readKnownWords, WORDS } from '../../tokenizer/known-words.ts'
import { openTokenizer } from '../../tokenizer/tokenizer.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import type { Checkpoint } from '../checkpoint/tensor.ts'

export type Tokenizers = {
  /** Path in the package → content. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Encoder → number of ids of its tokenizer; the encoder's embedding needs as many rows. */
  readonly vocabularies: ReadonlyMap<string, number>
}

/**
 * Reads the tokenizers of the text encoders from `directory` or, without one, from the checkpoint. Throws CheckpointError for a missing or
 * unusable one, before anything is written.
 */
export async function readTokenizers(
  encoders: readonly TextEncoderManifest[],
  checkpoint: Checkpoint,
  directory?: string,
): Promise<Tokenizers> {
  const files = new Map<string, Uint8Array>()
  const vocabularies = new Map<string, number>()
  for (const { name, tokenizer } of encoders) {
    const from = directory ? path.join(directory, tokenizer) : checkpoint.tokenizers[tokenizer]
    if (!from || !(await isDirectory(from))) throw missingTokenizer(tokenizer, name, from)
    vocabularies.set(name, await vocabularyOf(from))
    for (const file of await fs.readdir(from)) {
      const content = await readRegular(path.join(from, file))
      if (content) files.set(`${tokenizer}/${file}`, content)
    }
  }
  return { files, vocabularies }
}

export { WORDS }

/** The list of known words that a checkpoint's directory may have, as JSON; null without one. */
export async function readWords(paths: readonly string[]): Promise<Uint8Array | null> {
  const lists = await Promise.all(paths.map(readKnownWords))
  const words = lists.find((each) => each !== null)
  return words ? Buffer.from(JSON.stringify([...words])) : null
}

const isDirectory = (file: string) =>
  fs.stat(file).then(
    (stats) => stats.isDirectory(),
    () => false,
  )

function missingTokenizer(tokenizer: string, encoder: string, directory: string | undefined): CheckpointError {
  const problem = `the tokenizer of ${encoder} is missing; --tokenizers DIR names the directory that holds ${tokenizer}/ as the SD3.5 repositories ship it`
  return new CheckpointError(directory ?? 'the checkpoint', problem)
}

async function vocabularyOf(directory: string): Promise<number> {
  const { vocabulary } = await openTokenizer(directory).catch((cause: Error) => {
    throw new CheckpointError(directory, cause.message, { cause })
  })
  return vocabulary
}

/** A file's bytes, also through a link (a Hugging Face cache consists of links); null for a directory. */
async function readRegular(file: string): Promise<Uint8Array | null> {
  try {
    return (await fs.stat(file)).isFile() ? await fs.readFile(file) : null
  } catch (cause) {
    throw new CheckpointError(file, `cannot be read (${(cause as NodeJS.ErrnoException).code})`, { cause })
  }
}
