// Finds, checks and reads the tokenizer of each text encoder.
import fs from 'node:fs/promises'
import path from 'node:path'
import type { TextEncoderManifest } from '../../manifest.ts'
import { readKnownWords, WORDS } from '../../tokenizer/known-words.ts'
import { selectSources, TOKENIZER_FILES, TOKENIZER_LIMITS, type TokenizerFileName } from '../../tokenizer/sources.ts'
import { type PromptTokenizer, parseTokenizer } from '../../tokenizer/tokenizer.ts'
import { CheckpointError, listNames } from '../checkpoint/error.ts'
import { readSmallFile } from '../checkpoint/formats/file-kind.ts'
import type { Checkpoint } from '../checkpoint/tensor.ts'
import type { Vocabulary } from '../graph/model.ts'
import { fetchTokenizer } from './published-tokenizers.ts'

export type Tokenizers = {
  /** Path in the package → content. */
  readonly files: ReadonlyMap<string, Uint8Array>
  /** Remarks for the operator, in sentences. */
  readonly notes: readonly string[]
}

export type TokenizerOptions = {
  /** Directory with the tokenizers' directories, or `hub` for the published tokenizers; by default those of the checkpoint. */
  readonly tokenizers?: string | undefined
  /** Address of another server with the hub's API. */
  readonly hub?: string | undefined
}

/**
 * Reads the tokenizers of the text encoders. Throws CheckpointError, before any write, for a tokenizer that is missing, unusable or
 * of another encoder.
 */
export async function readTokenizers(
  encoders: readonly TextEncoderManifest[],
  vocabularies: ReadonlyMap<string, Vocabulary>,
  checkpoint: Pick<Checkpoint, 'tokenizers'>,
  options: TokenizerOptions,
): Promise<Tokenizers> {
  const files = new Map<string, Uint8Array>()
  const notes: string[] = []
  for (const encoder of encoders) {
    const { name, tokenizer } = encoder
    const { from, sources } = await find(encoder, checkpoint, options)
    const vocabulary = vocabularies.get(name)!
    const opened = openSources(from, sources)
    assertOwnTokens(from, encoder, opened, vocabulary)
    if (vocabulary.rows < opened.vocabulary)
      notes.push(`The tokenizer of ${name} has ids beyond its ${vocabulary.rows} embeddings: prompts with them fail.`)
    for (const [file, content] of sources) files.set(`${tokenizer}/${file}`, content)
  }
  return { files, notes }
}

async function find(
  { name, tokenizer }: TextEncoderManifest,
  checkpoint: Pick<Checkpoint, 'tokenizers'>,
  { tokenizers, hub }: TokenizerOptions,
): Promise<{ from: string; sources: ReadonlyMap<TokenizerFileName, Uint8Array> }> {
  if (tokenizers === 'hub') return { from: `hub: ${tokenizer}`, sources: await fetchTokenizer(tokenizer, hub) }
  const directory = tokenizers === undefined ? checkpoint.tokenizers[tokenizer] : path.join(tokenizers, tokenizer)
  if (directory !== undefined && (await isDirectory(directory)))
    return { from: directory, sources: await readDirectory(directory) }
  const problem = `the tokenizer of ${name} is missing; --tokenizers DIR names the directory that holds ${tokenizer}/ as the SD3.5 repositories ship it, and --tokenizers hub fetches the published tokenizers`
  throw new CheckpointError(directory ?? 'the checkpoint', problem)
}

export { WORDS }

/** The list of known words in a checkpoint's directory, as JSON; null if there is none. */
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

/** The files of a directory that define its tokenizer. Throws CheckpointError. */
async function readDirectory(directory: string): Promise<ReadonlyMap<TokenizerFileName, Uint8Array>> {
  const sources = new Map<TokenizerFileName, Uint8Array>()
  for (const name of TOKENIZER_FILES) {
    const file = path.join(directory, name)
    const target = await fs.realpath(file).catch(() => null)
    if (target === null) continue
    await assertInside(directory, file, target)
    sources.set(name, await readSmallFile(target, TOKENIZER_LIMITS.fileBytes))
  }
  return selectSources(sources)
}

/** Files become part of the package, so those outside are refused. The links of a Hugging Face cache lead from `snapshots` to `blobs`. */
async function assertInside(directory: string, file: string, target: string): Promise<void> {
  const folder = await fs.realpath(directory)
  const [cache, snapshot] = folder.split(`${path.sep}snapshots${path.sep}`)
  const roots = snapshot === undefined ? [folder] : [folder, path.join(cache!, 'blobs')]
  if (roots.some((root) => target.startsWith(root + path.sep))) return
  throw new CheckpointError(file, `is a link to ${target}, outside of its directory; copy the file into the directory`)
}

function openSources(from: string, sources: ReadonlyMap<TokenizerFileName, Uint8Array>): PromptTokenizer {
  try {
    const opened = parseTokenizer(from, sources)
    assertWholeMerges(opened)
    return opened
  } catch (cause) {
    const { message } = cause as Error
    const problem = message.startsWith(from) ? message.slice(from.length).replace(/^(: |[\\/])/, '') : message
    throw new CheckpointError(from, problem, { cause })
  }
}

/** Another encoder's tokenizer produces a different image without an error. */
function assertOwnTokens(
  from: string,
  { title }: TextEncoderManifest,
  { tokenizer, prefix, suffix, padId, vocabulary }: PromptTokenizer,
  { start, end, pad, published, rows }: Vocabulary,
): void {
  const fail = (problem: string) =>
    new CheckpointError(
      from,
      `is not the tokenizer of ${title}: it ${problem}; use the published one (--tokenizers hub)`,
    )
  const describe = (ids: readonly number[]) => (ids.length === 0 ? 'nothing' : tokenizer.decode([...ids]).slice(0, 100))
  const expect = (what: string, ids: readonly number[], tokens: readonly string[]) => {
    if (ids.length === tokens.length && ids.every((id, i) => id === tokenizer.token_to_id(tokens[i]!))) return
    throw fail(`${what} ${describe(ids)} instead of ${tokens[0] ?? 'nothing'}`)
  }
  expect('begins prompts with', prefix, start === null ? [] : [start])
  expect('ends prompts with', suffix, [end])
  expect('pads with', [padId], [pad])
  if (rows === published.rows && vocabulary !== published.ids)
    throw fail(`has ${vocabulary} ids instead of ${published.ids}`)
}

/**
 * A BPE tokenizer with different merges produces a different image without an error, for example after an interrupted download. In a
 * complete one, each token of several characters is the result of a merge, and each result is a token.
 */
function assertWholeMerges({ tokenizer }: PromptTokenizer): void {
  const { merges, tokens_to_ids: ids, end_of_word_suffix } = tokenizer.model
  if (!merges) return
  const suffix = end_of_word_suffix ?? ''
  const isCharacter = (token: string) =>
    [...token].length < 2 || (token.endsWith(suffix) && [...token].length < 2 + suffix.length)
  const results = new Set(merges.map(([left, right]) => left + right))
  const own = tokenizer.get_vocab(false)
  const unmerged = [...ids.keys()].filter((token) => own.has(token) && !results.has(token) && !isCharacter(token))
  const unknown = [...results].filter((token) => !ids.has(token))
  const advice = 'a file is truncated, or the files are of different tokenizers; download them again'
  if (unmerged.length > 0) throw new Error(`no merge results in the tokens ${listNames(unmerged)}: ${advice}`)
  if (unknown.length > 0) throw new Error(`the vocabulary lacks the results of merges ${listNames(unknown)}: ${advice}`)
}
