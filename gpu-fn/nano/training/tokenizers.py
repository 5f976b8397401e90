"""Writes tokenizer, tokenizer_2 and tokenizer_3 of nano, trained on its own captions.

    python -m training.tokenizers

The file formats and trainers are those of test/golden/scripts/tiny_tokenizers.py. Needs sentencepiece.
"""

import sys

from .scenes import FILLERS, SYNONYMS, Sampler
from .vocabulary import HERE, LETTERS

sys.path.insert(0, str(HERE.parents[2] / "test/golden/scripts"))
from tiny_tokenizers import EOS, clip_vocabulary, write_clip, write_t5  # noqa: E402

VOCABULARY = 1500  # of the two CLIPs
T5_VOCABULARY = 1280


def corpus() -> list[str]:
    sampler = Sampler(0)
    lines = [sampler.scene().caption for _ in range(20_000)]
    lines += [f"a {word} and a {word}" for words in SYNONYMS for word in words]
    lines += [word for word in FILLERS for _ in range(20)]
    return lines + [f"{letter} {letter.lower()}" for letter in LETTERS for _ in range(20)]


def main() -> None:
    lines = corpus()
    vocabulary, merges = clip_vocabulary([line.lower() for line in lines], VOCABULARY)
    write_clip(HERE.parent / "tokenizer", vocabulary, merges, pad=EOS)
    write_clip(HERE.parent / "tokenizer_2", vocabulary, merges, pad="!")
    write_t5(HERE.parent / "tokenizer_3", lines, T5_VOCABULARY)


if __name__ == "__main__":
    main()
