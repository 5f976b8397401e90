"""Writes tokenizer, tokenizer_2 and tokenizer_3 of nano into the state folder, trained on its own captions.

    python -m training.models.tokenizers

The file formats and trainers are those of test/golden/scripts/tiny_tokenizers.py. Needs sentencepiece.
"""

import re
import sys

from ..scenes.sampler import STRANGERS, SYNONYMS, Sampler
from ..settings import NANO, STATE, T5_VOCABULARY, VOCABULARY
from ..world.drawing import LETTERS
from ..world.phrases import FILLERS
from ..world.vocabulary import NAMES

sys.path.insert(0, str(NANO.parents[1] / "test/golden/scripts"))
from tiny_tokenizers import EOS, clip_vocabulary, write_clip, write_t5  # noqa: E402


def corpus() -> list[str]:
    sampler = Sampler(0)
    # Words on signs are tokenized letter by letter: only single letters have capitals.
    lines = [re.sub(r"[A-Z]{2,}", lambda word: " ".join(word[0]), sampler.scene().caption) for _ in range(20_000)]
    lines += [f"a {word} and a {word}" for words in SYNONYMS for word in words for _ in range(3)]
    lines += [f"a {name} and {name}" for name in NAMES for _ in range(12)] + STRANGERS
    lines += [word for word in FILLERS for _ in range(20)]
    return lines + [f"{letter} {letter.lower()}" for letter in LETTERS for _ in range(20)]


def main() -> None:
    lines = corpus()
    vocabulary, merges = clip_vocabulary([line.lower() for line in lines], VOCABULARY)
    write_clip(STATE / "tokenizer", vocabulary, merges, pad=EOS)
    write_clip(STATE / "tokenizer_2", vocabulary, merges, pad="!")
    write_t5(STATE / "tokenizer_3", lines, T5_VOCABULARY)


if __name__ == "__main__":
    main()
