"""Writes the model: gpu-fn/nano (28 steps) and gpu-fn/nano/turbo (4 steps), which shares all but the transformer, and its vocabulary.

    python -m training.export

Reads the averaged weights, the tokenizers, the vocabulary and the judge from the state folder. If the number of blocks differs from the
shipped model's, update nano's `depth` in gpu-fn/models/sd35/variants.ts.
"""

import json
import re
import shutil
from pathlib import Path

import torch

from .models.networks import NANO, TURBO_TERMINAL, TextEncoders, save, scheduler, transformer, vae
from .settings import STATE
from .world import phrases

SHARED = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3", "vae")


def model_index(name: str) -> dict:
    return {
        "_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.36.0", "_name_or_path": name,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"], "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
    }


def write_index(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "model_index.json").write_text(json.dumps(model_index(name), indent=2) + "\n")


def load(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network


def part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def known_words() -> list[str]:
    """Every word with a meaning in a caption: of sprites, groups, grounds, colors, styles, relations and signs."""
    vocabulary = json.loads((STATE / "vocabulary.json").read_text(encoding="utf-8"))
    tables = (phrases.SIZES, phrases.PLACES, phrases.RELATIONS, phrases.GROUND_PHRASES, phrases.LANDSCAPES, phrases.COLOR_NAMES, phrases.STYLE_PHRASES, phrases.NUMBERS)
    texts = [word for sprite in vocabulary["sprites"] for word in sprite["words"]] + [*vocabulary["groups"], *vocabulary["backgrounds"], *vocabulary["colors"]]
    texts += [phrases.plural(sprite["name"]) for sprite in vocabulary["sprites"]] + [text for table in tables for each in table.values() for text in each]
    texts += [*phrases.COLOR_PHRASES, *phrases.GRADIENT_PHRASES, *phrases.SIGN_PHRASES, *phrases.BANNER_PHRASES, *phrases.PREFIXES, *phrases.ADJECTIVES, *phrases.MADE_OF.values()]
    texts += ["a an the is are says made with and its"]
    return sorted({word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())})


def main() -> None:
    saved = {name: torch.load(STATE / f"{name}.pt", map_location="cpu", weights_only=True) for name in ("vae", "base", "turbo")}
    base = saved["base"]["average"]
    write_index(NANO, "octet/nano")
    for name in ("vocabulary.json", "judge.onnx"):
        shutil.copy(STATE / name, NANO / name)
    (NANO / "words.json").write_text(json.dumps(known_words(), ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        shutil.copytree(STATE / name, NANO / name, dirs_exist_ok=True)
    autoencoder = load(vae(), saved["vae"]["average"])
    autoencoder.register_to_config(scaling_factor=saved["vae"]["scaling_factor"], shift_factor=saved["vae"]["shift_factor"])
    save(autoencoder, "vae")
    encoders = load(TextEncoders(), part(base, "encoders."))
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        save(getattr(encoders, name), name)
    scheduler().save_pretrained(NANO / "scheduler")
    save(load(transformer(), part(base, "transformer.")), "transformer")

    turbo = NANO / "turbo"
    write_index(turbo, "octet/nano-turbo")
    for name in SHARED:
        if not (turbo / name).is_symlink():
            (turbo / name).symlink_to(f"../{name}")
    scheduler(TURBO_TERMINAL).save_pretrained(turbo / "scheduler")
    save(load(transformer(), saved["turbo"]["average"]), "turbo/transformer")


if __name__ == "__main__":
    main()
