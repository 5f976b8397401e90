"""Writes the tokenizer directories of the tiny model, in the file formats that SD3.5 repositories ship.

    python test/golden/scripts/tiny_tokenizers.py infra/checkpoints/tiny/tokenizers

`tokenizer` and `tokenizer_2`: CLIP byte-pair encoding of 1,000 entries. 256 bytes, 256 bytes that end a word, 486 merges,
start and end of text; CLIP-L pads with its end token, CLIP-G with id 0, "!". `tokenizer_3`: a T5 Unigram model whose character
map is SentencePiece's nmt_nfkc reduced to the characters of prompts. The words are Unicode's names of pictographs and the list below.
The files in the repository were made with Python 3.11 (Unicode 14) and sentencepiece 0.2.3; the same versions produce the same bytes.
"""

import base64
import json
import sys
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

WORDS = """a an the of and in on at with by to from under over above below behind beside between near into through is are
photo photograph photorealistic picture painting drawing sketch illustration render portrait landscape scene view close up
best quality high detailed masterpiece sharp focus soft light sunlight moonlight shadow bright dark warm cold colourful
red orange yellow green blue purple pink brown black white grey golden silver small large big tiny tall old new young
cat dog bird horse fish rabbit bear fox lion tiger mouse owl frog turtle butterfly flower garden rose tulip tree forest
mountain river lake sea ocean beach island sky cloud sun moon star rain snow night day morning evening sunset sunrise
house castle tower bridge street city village room kitchen table chair window door lamp book cup bottle bread apple lemon
car train boat ship plane bicycle robot astronaut woman man girl boy child king queen wizard dragon heart smile face hand
one two three four five six seven eight nine ten left right centre front background foreground style art digital oil
water colour paper wood stone glass metal fire ice sign that says text hello world no not blurry ugly low watermark""".split()
TEMPLATES = ["a photo of a {}", "a {} on a blue sky", "the {} in a garden, best quality", "a red {} and a small {}'s shadow"]
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def pictograph_names() -> list[str]:
    names = (unicodedata.name(chr(c), "").lower().replace("-", " ") for c in range(0x1F300, 0x1FB00))
    return [name for name in names if name and "variation" not in name]


def corpus() -> list[str]:
    lines = pictograph_names()
    for i, word in enumerate(WORDS):
        lines += [template.format(word, WORDS[i - 1]) for template in TEMPLATES]
    return lines


def byte_alphabet() -> list[str]:
    """The characters that stand for bytes, in the order of OpenAI's table: "!" has id 0."""
    printable = [chr(b) for b in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]]
    return printable + [chr(256 + i) for i in range(256 - len(printable))]


def train_merges(lines: list[str], count: int) -> list[tuple[str, str]]:
    # Not the tokenizers library's trainer: it breaks ties differently from run to run.
    words = Counter((*word[:-1], word[-1] + "</w>") for line in lines for word in line.split() if word.isascii())
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({merge(word, best): n for word, n in words.items()})
    return merges


def merge(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def clip_vocabulary(lines: list[str], size: int = 1000) -> tuple[dict[str, int], list[tuple[str, str]]]:
    alphabet, merges = byte_alphabet(), train_merges(lines, size - 514)
    entries = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), BOS, EOS]
    assert len(entries) == len(set(entries)) == size
    return {entry: i for i, entry in enumerate(entries)}, merges


def added(content: str, normalized: bool) -> dict:
    return {"content": content, "lstrip": False, "normalized": normalized, "rstrip": False, "single_word": False}


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_clip(directory: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], pad: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "vocab.json", vocabulary, None)
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    specials = {"bos_token": added(BOS, True), "eos_token": added(EOS, False), "pad_token": pad, "unk_token": added(EOS, False)}
    write_json(directory / "special_tokens_map.json", specials)
    tokens = {vocabulary[BOS]: added(BOS, True), vocabulary[EOS]: added(EOS, False)}
    if pad != EOS:
        tokens = {vocabulary[pad]: added(pad, False), **tokens}
    write_json(directory / "tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {**token, "special": True} for i, token in tokens.items()},
        "bos_token": BOS, "clean_up_tokenization_spaces": True, "do_lower_case": True, "eos_token": EOS, "errors": "replace",
        "model_max_length": 77, "pad_token": pad, "tokenizer_class": "CLIPTokenizer", "unk_token": EOS,
    })


def normalization_rules() -> str:
    rules = {c: " " for c in [0x9, 0xA, 0xC, 0xD, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x200E, 0x200F, 0x2028, 0x2029, 0x202F,
                              0x205F, 0x2581, 0x3000, 0xFEFF, 0xFFFD]}
    rules |= {c: "" for c in [*range(0x1, 0x9), 0xB, *range(0xE, 0x20), 0x7F, 0x8F, 0x9F]}
    blocks = [*range(0xA0, 0x180), *range(0x2010, 0x2150), *range(0x2460, 0x2500), *range(0x3300, 0x3400), *range(0xFB00, 0xFB07), *range(0xFF01, 0xFFA0)]
    for c in blocks:
        nfkc = unicodedata.normalize("NFKC", chr(c))
        if c not in rules and c != 0xFF5E and nfkc != chr(c):
            rules[c] = nfkc
    lines = [f"{c:X}\t{' '.join(f'{ord(r):X}' for r in result)}" for c, result in sorted(rules.items())]
    for base in "aeiouncAEIOUNC":
        for mark in "\u0300\u0301\u0302\u0303\u0308\u0327\u030C":
            composed = unicodedata.normalize("NFC", base + mark)
            if len(composed) == 1:
                lines.append(f"{ord(base):X} {ord(mark):X}\t{ord(composed):X}")
    return "\n".join(lines) + "\n"


def train_unigram(lines: list[str], directory: Path, size: int) -> sentencepiece_model.ModelProto:
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch, "rules.tsv")
        rules.write_text(normalization_rules(), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=f"{scratch}/spiece", model_type="unigram", vocab_size=size,
            normalization_rule_tsv=str(rules), pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2,
            required_chars="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"()-/&+%é",
        )
        model = sentencepiece_model.ModelProto.FromString(Path(scratch, "spiece.model").read_bytes())
    # The trainer records its scratch paths, which would make the file differ from run to run.
    model.ClearField("trainer_spec")
    model.trainer_spec.model_type = 1
    model.trainer_spec.unk_id, model.trainer_spec.eos_id, model.trainer_spec.pad_id, model.trainer_spec.bos_id = 2, 1, 0, -1
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    (directory / "spiece.model").write_bytes(model.SerializeToString(deterministic=True))
    return model


def write_t5(directory: Path, lines: list[str], size: int = 1000) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    model = train_unigram(lines, directory, size)
    specials = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokens = {i: {**added(content, False), "special": True} for i, content in enumerate(["<pad>", "</s>", "<unk>"])}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    write_json(directory / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, **token} for i, token in tokens.items()],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {"type": "TemplateProcessing", "single": [first, end], "pair": [first, end, second, end],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [[piece.piece, piece.score] for piece in model.pieces], "byte_fallback": False},
    }, None)
    write_json(directory / "special_tokens_map.json", {name: added(content, False) for name, content in specials.items()})
    write_json(directory / "tokenizer_config.json", {
        "add_prefix_space": None, "added_tokens_decoder": {str(i): token for i, token in tokens.items()}, "additional_special_tokens": [],
        "clean_up_tokenization_spaces": True, **specials, "extra_ids": 0, "legacy": True, "model_max_length": 512, "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    })


def main(out: Path) -> None:
    lines = corpus()
    vocabulary, merges = clip_vocabulary([line.lower() for line in lines])
    write_clip(out / "tokenizer", vocabulary, merges, pad=EOS)
    write_clip(out / "tokenizer_2", vocabulary, merges, pad="!")
    write_t5(out / "tokenizer_3", lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
