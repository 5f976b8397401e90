// The tokenizer of each text encoder, found, tried and copied into the package.
import fs from 'node:fs/promises'
import path from 'node:path'
import type { NetworkName } from '../../manifest.ts'
import { openTokenizer } from '../../tokenizer/tokenizer.ts'
import { CheckpointError } from '../checkpoint/error.ts'
import type { Checkpoint, TokenizerName } from '../checkpoint/tensor.ts'

const TOKENIZERS = [
  ['tokenizer', 'clip_l'],
  ['tokenizer_2', 'clip_g'],
  ['tokenizer_3', 't5'],
] as const

export type Tokenizers = {
  /** Path in the package → its bytes. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Ids that each tokenizer gives: an encoder's embedding needs as many rows. */
  readonly vocabularies: ReadonlyMap<NetworkName, number>
}

/**
 * Reads the tokenizers of `networks` from `directory` or, without one, from where the checkpoint has them. Throws CheckpointError for
 * one that is missing or cannot be used, before anything is written.
 */
export async function readTokenizers(
  networks: ReadonlySet<NetworkName>,
  checkpoint: Checkpoint,
  directory?: string,
): Promise<Tokenizers> {
  const files = new Map<string, Uint8Array>()
  const vocabularies = new Map<NetworkName, number>()
  for (const [name, network] of TOKENIZERS) {
    if (!networks.has(network)) continue
    const from = directory ? path.join(directory, name) : checkpoint.tokenizers[name]
    if (!from || !(await isDirectory(from))) throw missing(name, network, from)
    vocabularies.set(network, await vocabularyOf(from))
    for (const file of await fs.readdir(from)) {
      const content = await readRegular(path.join(from, file))
      if (content) files.set(`${name}/${file}`, content)
    }
  }
  return { files, vocabularies }
}

const isDirectory = (file: string) =>
  fs.stat(file).then(
    (stats) => stats.isDirectory(),
    () => false,
  )

function missing(name: TokenizerName, network: NetworkName, directory: string | undefined): CheckpointError {
  const problem = `the tokenizer of ${network} is missing; --tokenizers DIR names the directory that holds ${name}/ as the SD3.5 repositories ship it`
  return new CheckpointError(directory ?? 'the checkpoint', problem)
}

async function vocabularyOf(directory: string): Promise<number> {
  const { vocabulary } = await openTokenizer(directory).catch((cause: Error) => {
    throw new CheckpointError(directory, cause.message, { cause })
  })
  return vocabulary
}

/** A file's bytes, also behind a link (a Hugging Face cache is all links); null for a directory. */
async function readRegular(file: string): Promise<Uint8Array | null> {
  try {
    return (await fs.stat(file)).isFile() ? await fs.readFile(file) : null
  } catch (cause) {
    throw new CheckpointError(file, `cannot be read (${(cause as NodeJS.ErrnoException).code})`, { cause })
  }
}
