// The library's declarations import without file extensions, which `nodenext` does not resolve; these are the parts in use.
declare module '@huggingface/tokenizers' {
  type Component = { type: string; [option: string]: unknown }
  type Encoding = { ids: number[]; tokens: string[]; attention_mask: number[] }

  /** Words to tokens. The tokenizer calls `_call`, which runs `encode` and, with `fuse_unk`, merges each run of unknown tokens into one. */
  type Model = {
    fuse_unk: boolean
    unk_token_id: number | undefined
    tokens_to_ids: Map<string, number>
    /** Of BPE. */
    merges?: [string, string][]
    end_of_word_suffix?: string
    encode(words: string[]): string[]
    _call(words: string[]): string[]
  }

  export class Tokenizer {
    constructor(definition: object, config: object)
    normalizer: ((text: string) => string) | null
    readonly model: Model
    encode(text: string, options?: { add_special_tokens?: boolean }): Encoding
    decode(ids: number[], options?: { skip_special_tokens?: boolean; clean_up_tokenization_spaces?: boolean }): string
    token_to_id(token: string): number | undefined
    get_vocab(withAddedTokens?: boolean): Map<string, number>
  }
  export class SequenceNormalizer {
    constructor(config: { type: 'Sequence'; normalizers: Component[] })
    normalize(text: string): string
  }
}
