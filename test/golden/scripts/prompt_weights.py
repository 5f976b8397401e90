"""Writes test/golden/prompt-weights.json: weights of prompts as ComfyUI and Stability's reference read them, and the prompt
embeddings of the tiny checkpoint with ComfyUI's weighting. float32 on the CPU.

    npx node infra/checkpoints/tiny/checkpoint.ts --variant tiny-medium --out TINY/tiny-medium
    python test/golden/scripts/prompt_weights.py TINY/tiny-medium test/golden/prompt-weights.json

Written from the rules of ComfyUI comfy/sd1_clip.py @ a125cd8 and Stability-AI/sd3.5 other_impls.py @ fbf8f48:

- `\\(` and `\\)` are characters. A group is a text from an opening parenthesis at level 0 to the closing one that returns to
  level 0; the rest of the text, if it begins with "(" and ends with ")", counts as one too.
- A group weighs 1.1 times its surroundings. A last colon, not at the start, followed by what Python's float() reads sets the
  weight to that number instead, whatever is around it.
- Each text of one weight is tokenized for itself. CLIP's 77 tokens are a start, at most 75, an end and padding; a text of less
  than 8 tokens that does not fit is left out whole.
- The hidden state of each token moves to empty + weight * (state - empty), where empty is the state at its position in the
  encoding of the empty prompt. The pooled vector has no weights.
"""

import base64
import json
import random
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

CLOSE, OPEN = "\0\1", "\0\2"


def groups(text: str):
    """The parts of a text: (part, whether it is a group)."""
    level, part = 0, ""
    for character in text:
        if character == "(" and level == 0 and part:
            yield part
            part = ""
        level += {"(": 1, ")": -1}.get(character, 0)
        part += character
        if character == ")" and level == 0:
            yield part
            part = ""
    if part:
        yield part


def weighed(text: str, weight: float):
    for part in groups(text):
        if not (len(part) >= 2 and part[0] == "(" and part[-1] == ")"):
            yield part, weight
            continue
        inner, own = part[1:-1], weight * 1.1
        head, colon, tail = inner.rpartition(":")
        if colon and head:
            try:
                own, inner = float(tail), head
            except ValueError:
                pass
        yield from weighed(inner, own)


def segments(prompt: str) -> list[list]:
    escaped = prompt.replace("\\)", CLOSE).replace("\\(", OPEN)
    return [[text.replace(CLOSE, ")").replace(OPEN, "("), weight] for text, weight in weighed(escaped, 1.0)]


def tokenized(tokenizer, prompt: str, length: int) -> tuple[list[int], list[float]]:
    empty = tokenizer("")["input_ids"]
    start, end = empty[:-1], empty[-1:]
    ids, weights = [], []
    room = length - len(empty)
    for text, weight in segments(prompt):
        own = tokenizer(text)["input_ids"][len(start) : -1]
        if len(ids) + len(own) > room:
            own = own[: room - len(ids)] if len(own) >= 8 else []
            ids, weights = ids + own, weights + [weight] * len(own)
            break
        ids, weights = ids + own, weights + [weight] * len(own)
    pad = tokenizer.pad_token_id
    whole = start + ids + end
    return whole + [pad] * (length - len(whole)), [1.0] * len(start) + weights + [1.0] * (length - len(weights) - len(start))


def encoded(model, tokenizer, prompt: str, length: int):
    ids, weights = tokenized(tokenizer, prompt, length)
    both = torch.tensor([ids, tokenized(tokenizer, "", length)[0]])
    output = model(both, output_hidden_states=True)
    clip = hasattr(output, "text_embeds")
    states = output.hidden_states[-2] if clip else output.last_hidden_state
    z, empty = states
    for k, weight in enumerate(weights):
        if weight != 1.0:
            z[k] = (z[k] - empty[k]) * weight + empty[k]
    return z, output.text_embeds[0] if clip else None


WRITTEN = [
    "", "a cat", "(a cat)", "((a cat))", "(((a)))", "a (red:1.3) cat", "(a (b:1.5) c:0.5) d", "((a:1.2) b)", "(a:0)", "(a:-1.5)",
    "a \\(b\\) c", "(a \\(b\\):1.2)", "(\\):2)", "a (b", "a) (b:2) c", "a) ((b:2) c", "(a (b:1.2)", "(a:1.2", "(a:b)", "(a:1.2:1.3)", "(:1.2)",
    "()", "( )", "(a: 1.2 )", "(a:1e0)", "(a:1_0)", "(a:.5)", "(a:5.)", "(a:+1)", "(a:1__0)", "(a:_1)", "(a:0x1)", "a:1.2", "[a:1.2]",
    "(a:1.2) (b:0.8), c", "(a\nb:1.2)", "(é 日本:1.2) 🙂", "\\", "\\\\(a:1.2\\\\)", "(a)(b)", "((a)b:1.5)", "(a:1.2)(b:1.2", "))((", "(a:)",
]


def fuzzed(count: int) -> list[str]:
    rng = random.Random(7)
    pieces = ["(", ")", "(", ")", ":1.2", ":0.7)", "a", " b", ":", "\\(", "\\)", "\\", "1.5", "-2", " "]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(count)]


def finite(prompt: str) -> bool:
    return all(abs(weight) <= 10 for _, weight in segments(prompt))


EMBEDDED = [
    "a photorealistic (flower garden:1.4) with ((sunlight)), (dark:0.3) best quality",
    "(flower garden and birds:1.2) " + "(sunlight:0.5) one tree, " * 40,
    "plain words \\(without weights\\)",
]


@torch.inference_mode()
def main(checkpoint: Path, out: Path) -> None:
    encoders = [
        ("clip_l", CLIPTextModelWithProjection, "text_encoder", "tokenizer", 77),
        ("clip_g", CLIPTextModelWithProjection, "text_encoder_2", "tokenizer_2", 77),
        ("t5", T5EncoderModel, "text_encoder_3", "tokenizer_3", 100),
    ]
    # Every eleventh row: those of the words, of their end and of the padding.
    def sample(z): return base64.b64encode(z[::11].contiguous().numpy().tobytes()).decode()
    embeddings = []
    for name, model, directory, tokenizer, length in encoders:
        model = model.from_pretrained(checkpoint / directory, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint / tokenizer)
        for prompt in EMBEDDED:
            z, pooled = encoded(model, tokenizer, prompt, length)
            each = {"encoder": name, "prompt": prompt, "rows": length, "width": z.shape[1], "every_11th_row": sample(z)}
            embeddings.append({**each, "pooled": None if pooled is None else sample(pooled[None])})
    prompts = [prompt for prompt in WRITTEN + fuzzed(250) if finite(prompt)]
    golden = {
        "script": "test/golden/scripts/prompt_weights.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "python": sys.version.split()[0]},
        "segments": [{"prompt": prompt, "segments": segments(prompt)} for prompt in prompts],
        "embeddings": embeddings,
    }
    out.write_text(json.dumps(golden) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
