"""Writes test/golden/sentencepiece.json: ids of transformers' T5Tokenizer for a directory that has spiece.model alone.

    python test/golden/scripts/sentencepiece_model.py infra/checkpoints/tiny/tokenizers/tokenizer_3/spiece.model test/golden/sentencepiece.json

The prompts are those of test/golden/tokenizer.json, in their order, then those of `OWN`. Ids are truncated to 256 and not padded.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import tokenizers
import transformers
from transformers import T5Tokenizer

OWN = ["<extra_id_0> and <extra_id_99>", "<extra_id_100>", "a<extra_id_7>b", "x</s>y<pad>z", "\u2581\u2581 a", "\u00a0a\u3000b"]


def main(model: Path, out: Path) -> None:
    prompts = [case["text"] * case["times"] for case in json.loads((out.parent / "tokenizer.json").read_text())["cases"]]
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(model, Path(directory, "spiece.model"))
        tokenizer = T5Tokenizer.from_pretrained(directory)
    golden = {
        "script": "test/golden/scripts/sentencepiece_model.py",
        "versions": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "pad": tokenizer.pad_token_id, "vocabulary": len(tokenizer), "own": OWN,
        "ids": [tokenizer(text, truncation=True, max_length=256).input_ids for text in prompts + OWN],
    }
    out.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
