"""Writes test/golden/tokenizer.json: ids of transformers' CLIPTokenizer and T5Tokenizer for the tiny model's tokenizer directories.

    python test/golden/scripts/tokenizer.py infra/checkpoints/tiny/tokenizers test/golden/tokenizer.json

A prompt is `text` repeated `times` times. Ids are truncated as diffusers truncates them (77, 77, 256) and not padded.
The same comparison holds for the real vocabularies, which are not in this repository: point the script at a directory that has them.
"""

import json
import random
import sys
from pathlib import Path

import tokenizers
import transformers
from transformers import CLIPTokenizer, T5Tokenizer

FIXED = [
    "", " ", "a photorealistic flower garden with sunlight, best quality", " a  b\tc\nd\r\ne ", "\x00", "a\x00b", "\x01\x02\x7f\x80\x85\x9f",
    "\ufeffbom\ufeff x!\ufeff!", "zero\u200bwidth\u200cjoin\u200der\u200e\u200f", "nb\u00a0sp\u202f\u2009\u3000ideo", "line\u2028sep\u2029",
    "soft\u00adhyphen", "\u0301first e\u0301 o\u0308 \u1e0b\u0323 \u2460\u0301 \ufb01\u0301", "!", "!!!", "a!b !c d!", "<|endoftext|>",
    "<|startoftext|>hello<|endoftext|>", "<|ENDOFTEXT|> X <|StartOfText|>", "</s>", "<pad> <unk></s> x <extra_id_0>",
    "'s 't 're 've 'm 'll 'd 'S 'T IT'S DON'T", "\u2019s \u2018quoted\u2019 \u201cdouble\u201d \u2014 \u2013 \u2026 \u203d",
    "http://example.com/?q=1&b=%20#frag", "C:\\path\\file.txt", "e=mc^2; \u2211\u221e\u2260 \u221a2 \u03b1\u03b2\u03b3 \u0391\u0392\u0393",
    "\u0391\u03a3 \u03a3\u0391 \u0391\u03a3\u0391 \u0386\u03a3.", "\u01c5 \u01c8 \u0149 \u01f0", "\uff8a\uff9d\uff76\uff78 \uff76\uff9e", "\ud55c\uae00 \u1112\u1161\u11ab",
    "\u0915\u094d\u0937\u0924\u094d\u0930\u093f\u092f", "\u202eRTL override\u202c", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\ud7ff\ue000\uf8ff\ufffd\ufffe\U0010ffff", "\U0001d4ef\U0001d4ea\U0001d4f7\U0001d4ec\U0001d502 \U0001d53d", "1234567890 3.14159 \u00be",
    "\u2581under\u2581score __x__", "\n\n\n", "\uff0e\u3002\uff0c\u3001\uff01\uff1f", "\ufb03 \ufb06 \u0133 \u01c4", "\u212b \u00c5 A\u030a", "\u00bd \u2177 \u2082 \u2075",
    "\u0130\u0131 \u1e9e stra\u00dfe", "\u0345\u03b1\u0345", "o\u0308\u0332", "\u00b4", "\u301c \uff5e \u223c ~", "....,,,!!??", "a,b.c;d:e",
    "\U0001f600 \u2764\ufe0f \U0001f469\u200d\U0001f680 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1ef\U0001f1f5 \U0001f44d\U0001f3fd 1\ufe0f\u20e3", "\u65e5\u672c\u306e\u732b, \u5bff\u53f8",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", "\u0e44\u0e17\u0e22 Vi\u1ec7t \u0928\u092e\u0938\u094d\u0924\u0947", "(masterpiece:1.2) [blurry] {x} --ar 16:9",
]
LONG = [("a", 300), ("ab ", 200), ("word ", 500), ("\u732b", 400), ("\U0001f600", 200), ("x", 10_000), ("the quick brown fox ", 500)]
WORDS = """a the red blue green small large cat dog heart star moon garden flower Château naïve Ångström über don't they're it's 8k 4K 16:9
photorealistic detailed portrait, sunlight. (soft) "text"日本 東京 사랑 мир ΟΔΥΣΣΕΎΣ İstanbul ﬁancé ½ № ™ ① ㎏ ｆｕｌｌ 😀 ✨ 👩‍🎨 ☃️""".split()


def random_prompts(count: int) -> list[str]:
    rng = random.Random(20)
    prompts = []
    for _ in range(count):
        parts = [rng.choice(WORDS) if rng.random() < 0.9 else "".join(chr(rng.randint(0x20, 0x2FFF)) for _ in range(4)) for _ in range(rng.randint(2, 24))]
        prompts.append(rng.choice([" ", ", ", "  ", "-"]).join(part.upper() if rng.random() < 0.1 else part for part in parts))
    return prompts


def main(directory: Path, out: Path) -> None:
    prompts = [(text, 1) for text in FIXED + random_prompts(100)] + LONG
    opened = [
        (CLIPTokenizer.from_pretrained(directory / "tokenizer"), 77), (CLIPTokenizer.from_pretrained(directory / "tokenizer_2"), 77),
        (T5Tokenizer.from_pretrained(directory / "tokenizer_3"), 256),
    ]
    cases = []
    for text, times in prompts:
        clip_l, clip_g, t5 = (tokenizer(text * times, truncation=True, max_length=length).input_ids for tokenizer, length in opened)
        cases.append({"text": text, "times": times, "clip_l": clip_l, "clip_g": clip_g, "t5": t5})
    golden = {
        "script": "test/golden/scripts/tokenizer.py",
        "versions": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "pads": [tokenizer.pad_token_id for tokenizer, _ in opened],
        "cases": cases,
    }
    out.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
