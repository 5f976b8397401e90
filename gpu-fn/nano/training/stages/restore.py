"""Initializes the stages' state from the shipped checkpoint, so that training can continue from it even with other tokenizers or more blocks.

    python -m training.stages.restore

Writes vae.pt, base.pt and judge.pt; the stages start at step 0 with these weights and their own schedules. A new token is initialized to the mean
of the tokens it replaces, and a new block to a copy of the previous one with zero gates, so that it initially has no effect.
"""

import re

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

from ..models.networks import LAYERS, NANO
from ..settings import STATE, T5_VOCABULARY
from .restore_judge import restore_judge
from .stage import device, save_weights

ENCODERS = {"text_encoder": ("tokenizer", CLIPTextModelWithProjection), "text_encoder_2": ("tokenizer_2", CLIPTextModelWithProjection),
            "text_encoder_3": ("tokenizer_3", T5EncoderModel)}
GATES = (2, 5)  # among the six parts of a block's modulation: of attention and of the MLP


def pieces_of(old, token: str) -> list[int]:
    """The old tokens that a new token replaces."""
    vocabulary = old.get_vocab()
    if token in vocabulary:
        return [vocabulary[token]]
    text = token.replace("</w>", "").replace("▁", " ")
    return old(text, add_special_tokens=False).input_ids or [0]


def move_tokens(embedding: torch.Tensor, folder: str, rows: int) -> torch.Tensor:
    """Converts an embedding [old tokens, D] to the new tokenizer: [rows, D]."""
    old, new = AutoTokenizer.from_pretrained(NANO / folder), AutoTokenizer.from_pretrained(STATE / folder)
    moved = embedding.new_zeros(rows, embedding.shape[1])
    for token, index in new.get_vocab().items():
        if index < rows:
            moved[index] = embedding[pieces_of(old, token)].mean(0)
    return moved


def add_blocks(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Weights of a transformer with `layers` blocks; the new ones are spread over those after the first two, and the last stays last."""
    old = 1 + max(int(match[1]) for key in weights if (match := re.match(r"transformer_blocks\.(\d+)\.", key)))
    extra = layers - old
    order = []
    for block in range(old):
        order.append((block, False))
        if 2 <= block < 2 + extra:
            order.append((block, True))
    assert len(order) == layers
    grown = {key: value for key, value in weights.items() if not key.startswith("transformer_blocks.")}
    for index, (source, fresh) in enumerate(order):
        prefix = f"transformer_blocks.{source}."
        for key in [key for key in weights if key.startswith(prefix)]:
            value = weights[key].clone()
            if fresh and re.search(r"norm1(_context)?\.linear", key):
                for part in GATES:
                    value.view(6, -1, *value.shape[1:])[part] = 0
            grown[f"transformer_blocks.{index}.{key.removeprefix(prefix)}"] = value
    return grown


def read_transformer(folder: str) -> dict[str, torch.Tensor]:
    """The weights of a shipped transformer, for example in the folder "turbo/transformer"."""
    return add_blocks(SD3Transformer2DModel.from_pretrained(NANO / folder, torch_dtype=torch.float32).state_dict(), LAYERS)


def read_base() -> dict[str, torch.Tensor]:
    """The weights of the shipped transformer and text encoders, by the parameter names of a Denoiser."""
    base = {f"transformer.{key}": value for key, value in read_transformer("transformer").items()}
    for name, (folder, kind) in ENCODERS.items():
        for key, value in kind.from_pretrained(NANO / name, torch_dtype=torch.float32).state_dict().items():
            if "token_embedding" in key or key.endswith(("shared.weight", "embed_tokens.weight")):
                value = move_tokens(value, folder, T5_VOCABULARY if name == "text_encoder_3" else len(AutoTokenizer.from_pretrained(STATE / folder)))
            base[f"encoders.{name}.{key}"] = value
    return base


def main() -> None:
    vae = AutoencoderKL.from_pretrained(NANO / "vae", torch_dtype=torch.float32)
    save_weights("vae", vae.state_dict(), scaling_factor=vae.config.scaling_factor, shift_factor=vae.config.shift_factor)
    save_weights("base", read_base())
    restore_judge(device())


if __name__ == "__main__":
    main()
