// SD3.5's tokenizers from the Hugging Face hub. Its own repositories require an account; these public ones have the same vocabularies.
import { TOKENIZER_LIMITS, type TokenizerFileName } from '../../tokenizer/sources.ts'
import { CheckpointError } from '../checkpoint/error.ts'

type Repository = { readonly repo: string; readonly revision: string; readonly files: readonly TokenizerFileName[] }

const CLIP: Repository = {
  repo: 'openai/clip-vit-large-patch14',
  revision: '32bd64288804d66eefd0ccbe215aa642df71cc41',
  files: ['vocab.json', 'merges.txt'],
}
const T5: Repository = {
  repo: 'google/t5-v1_1-xxl',
  revision: '3db67ab1af984cf10548a73467f0e5bca2aaaeb2',
  files: ['spiece.model'],
}

const START = '<|startoftext|>'
const END = '<|endoftext|>'
const createToken = (content: string, normalized: boolean) => ({ content, normalized, special: true })

/** The fields of tokenizer_config.json that are read, for a CLIP tokenizer of SD3.5. */
const createClipConfig = (pad: string, ids: Readonly<Record<string, number>>) => ({
  added_tokens_decoder: {
    ...(pad !== END && { [ids[pad]!]: createToken(pad, false) }),
    [ids[START]!]: createToken(START, true),
    [ids[END]!]: createToken(END, false),
  },
  ...{ bos_token: START, eos_token: END, pad_token: pad, unk_token: END },
})

const TOKENIZERS: Readonly<Record<string, Repository & { readonly pad: string }>> = {
  tokenizer: { ...CLIP, pad: END },
  tokenizer_2: { ...CLIP, pad: '!' },
  tokenizer_3: { ...T5, pad: '<pad>' },
}

/** The files of SD3.5's tokenizer `name`, from `hubUrl` or huggingface.co. Throws CheckpointError. */
export async function fetchTokenizer(name: string, hubUrl?: string): Promise<Map<TokenizerFileName, Uint8Array>> {
  const { repo, revision, files, pad } = TOKENIZERS[name]!
  const sources = new Map<TokenizerFileName, Uint8Array>()
  for (const file of files) sources.set(file, await fetchFile({ repo, revision, ...(hubUrl && { hubUrl }) }, file))
  const vocab = sources.get('vocab.json')
  const config = vocab ? createClipConfig(pad, parseVocabulary(repo, vocab)) : { pad_token: pad }
  return sources.set('tokenizer_config.json', new TextEncoder().encode(JSON.stringify(config)))
}

function parseVocabulary(repo: string, bytes: Uint8Array): Record<string, number> {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as Record<string, number>
  } catch (cause) {
    throw new CheckpointError(`hub: ${repo}/vocab.json`, 'is not JSON', { cause })
  }
}

async function fetchFile(from: { repo: string; revision: string; hubUrl?: string }, file: string): Promise<Uint8Array> {
  const fail = (problem: string, options?: ErrorOptions) =>
    new CheckpointError(`hub: ${from.repo}/${file}`, problem, options)
  const { downloadFile } = await import('@huggingface/hub').catch((cause) => {
    throw fail('needs the package @huggingface/hub, which "npm ci" installs unless --omit=dev is given', { cause })
  })
  const blob = await downloadFile({ ...from, path: file }).catch((cause: Error) => {
    const advice = '--tokenizers DIR names a directory that has the tokenizers'
    throw fail(`cannot be fetched (${cause.message}); ${advice}`, { cause })
  })
  if (!blob) throw fail('does not exist')
  const { fileBytes } = TOKENIZER_LIMITS
  if (blob.size > fileBytes) throw fail(`has ${blob.size} bytes; at most ${fileBytes} are allowed`)
  return new Uint8Array(await blob.arrayBuffer())
}
