// Reads SentencePiece models (`spiece.model`), as transformers' `T5Tokenizer` does, whose result is a `tokenizer.json`.
// sentencepiece_model.proto of google/sentencepiece; transformers 5.24 tokenization_t5.py and convert_slow_tokenizer.py.
import protobuf from 'protobufjs'
import { TOKENIZER_LIMITS, TokenizerError } from './sources.ts'

type Piece = [piece: string, score: number]
type Model = { pieces: Piece[]; type: number; byteFallback: boolean; characterMap: Uint8Array }

/** T5's special tokens by id. */
const SPECIAL = ['<pad>', '</s>', '<unk>']
const UNIGRAM = 1
/** Sentinel tokens of the published T5. */
const EXTRA_IDS = 100
/** Tags of the fields that are read: field number · 8 + wire type. */
const MODEL = { piece: 0x0a, trainer: 0x12, normalizer: 0x1a }
const PIECE = { text: 0x0a, score: 0x15 }
const TRAINER = { type: 0x18, byteFallback: 0x118 }
const NORMALIZER = { characterMap: 0x12 }

/**
 * The `tokenizer.json` of T5's SentencePiece model `bytes`, with `extraIds` sentinel tokens after its pieces. `file` is named in errors. Throws
 * TokenizerError for a malformed model and for a model other than T5's.
 */
export function convertSentencePiece(file: string, bytes: Uint8Array, extraIds = EXTRA_IDS): object {
  const fail = (problem: string, options?: ErrorOptions) => new TokenizerError(`${file}: ${problem}`, options)
  let model: Model
  try {
    model = readModel(bytes)
  } catch (cause) {
    throw fail(`is not a SentencePiece model (${cause instanceof Error ? cause.message : cause})`, { cause })
  }
  const { pieces, type, byteFallback, characterMap } = model
  if (type !== UNIGRAM || byteFallback) throw fail('is not a unigram model without byte fallback, as T5 has')
  if (SPECIAL.some((token, id) => pieces[id]?.[0] !== token)) {
    throw fail(`does not begin with the pieces ${SPECIAL.join(', ')} of T5`)
  }
  const sentinels = Array.from({ length: extraIds }, (_, i): Piece => [`<extra_id_${extraIds - 1 - i}>`, 0])
  const special = [...SPECIAL.entries(), ...sentinels.map(([text], i) => [pieces.length + i, text] as const)]
  return {
    added_tokens: special.map(([id, content]) => ({ id, content, normalized: false, special: true })),
    normalizer: { type: 'Precompiled', precompiled_charsmap: Buffer.from(characterMap).toString('base64') },
    pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }, METASPACE] },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
      special_tokens: { '</s>': { id: '</s>', ids: [1], tokens: ['</s>'] } },
    },
    decoder: METASPACE,
    model: { type: 'Unigram', unk_id: 2, byte_fallback: false, vocab: [...pieces, ...sentinels] },
  }
}

const METASPACE = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true }

function readModel(bytes: Uint8Array): Model {
  const model: Model = { pieces: [], type: UNIGRAM, byteFallback: false, characterMap: new Uint8Array() }
  readFields(bytes, (tag, reader) => {
    if (tag === MODEL.piece) {
      if (model.pieces.length === TOKENIZER_LIMITS.tokens)
        throw new Error(`more than ${TOKENIZER_LIMITS.tokens} pieces`)
      model.pieces.push(readPiece(reader.bytes()))
    } else if (tag === MODEL.trainer) {
      readFields(reader.bytes(), (tag, reader) => {
        if (tag === TRAINER.type) model.type = reader.int32()
        else if (tag === TRAINER.byteFallback) model.byteFallback = reader.bool()
        else reader.skipType(tag & 7)
      })
    } else if (tag === MODEL.normalizer) {
      readFields(reader.bytes(), (tag, reader) => {
        if (tag === NORMALIZER.characterMap) model.characterMap = reader.bytes()
        else reader.skipType(tag & 7)
      })
    } else reader.skipType(tag & 7)
  })
  return model
}

function readPiece(bytes: Uint8Array): Piece {
  const piece: Piece = ['', 0]
  readFields(bytes, (tag, reader) => {
    if (tag === PIECE.text) piece[0] = reader.string()
    else if (tag === PIECE.score) piece[1] = reader.float()
    else reader.skipType(tag & 7)
  })
  return piece
}

/** Calls `read` for each field of a message, with its tag; `read` reads or skips the value. */
function readFields(bytes: Uint8Array, read: (tag: number, reader: protobuf.Reader) => void): void {
  const reader = protobuf.Reader.create(bytes)
  while (reader.pos < reader.len) read(reader.uint32(), reader)
}
