"""Writes nano to gpu-fn/nano (28 steps), and its distilled models to gpu-fn/nano/turbo (4 steps) and gpu-fn/nano/flash (2 steps).

    python -m training.export

The distilled models share all parts of nano but the transformer and the scheduler.

Reads the averaged weights, the tokenizers, the vocabulary and the judge from the state folder. Writes nothing unless `training.evaluation.evaluate` has
scored the base and turbo at least as high as the shipped models. Writes flash only if it scores at most `FLASH_LOSS` below turbo. If the number of
blocks differs from the shipped model's, update nano's `depth` in gpu-fn/models/sd35/variants.ts.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

import torch

from .evaluation.evaluate import SCORES
from .models.networks import FLASH_TERMINAL, NANO, TURBO_TERMINAL, TextEncoders, save, scheduler, transformer, vae
from .settings import STATE
from .world import phrases

FLASH_LOSS = 0.05  # maximum decrease of the fraction of correct images
SHARED = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3", "vae", "words.json")


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


def accuracy(model: str) -> float | None:
    """Fraction of held-out prompts with a correct image (`shown`); None without an evaluation."""
    models = json.loads(SCORES.read_text())["models"] if SCORES.exists() else {}
    if model not in models:
        return None
    sets = [scores["shown"] for name, scores in models[model].items() if name.split()[0] != "lite" and name.split()[1] != "natural"]
    return sum(sets) / len(sets)


def require_improvement() -> None:
    """Exits if the base or turbo is worse than the shipped one, or has not been compared with it."""
    for model, shipped in (("base", "shipped"), ("turbo", "shipped-turbo")):
        ours, theirs = accuracy(model), accuracy(shipped)
        if ours is None or theirs is None:
            raise SystemExit(f"{SCORES} does not compare {model} with {shipped}: run python -m training.evaluation.evaluate --models {shipped},{model}")
        print(f"{model}: {ours:.1%} of the images are correct, {shipped}: {theirs:.1%}")
        if ours < theirs:
            raise SystemExit(f"{model} is worse than the shipped model: nothing was written; --unchecked skips this comparison")


def choose_flash() -> str | None:
    """The better of flash and flash-trajectory (before distribution matching); None if neither is within `FLASH_LOSS` of turbo."""
    scores = {name: accuracy(name) for name in ("flash", "flash-trajectory")}
    candidates = [(score, name) for name, score in scores.items() if score is not None and (STATE / f"{name}.pt").exists()]
    if not candidates:
        return None
    score, name = max(candidates)
    limit = accuracy("turbo") - FLASH_LOSS
    print(f"{name}: {score:.1%} of the images are correct, minimum for nano-flash: {limit:.1%}")
    return name if score >= limit else None


def write_distilled(folder: str, weights: dict[str, torch.Tensor], terminal: float) -> None:
    """Writes a distilled model, with symbolic links to the shared parts."""
    directory = NANO / folder
    write_index(directory, f"octet/nano-{folder}")
    for name in SHARED:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"../{name}")
    scheduler(terminal).save_pretrained(directory / "scheduler")
    save(load(transformer(), weights), f"{folder}/transformer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unchecked", action="store_true", help="write the base and turbo without a comparison, and no flash")
    unchecked = parser.parse_args().unchecked
    if not unchecked:
        require_improvement()
    flash = None if unchecked else choose_flash()
    read = lambda name: torch.load(STATE / f"{name}.pt", map_location="cpu", weights_only=True)
    autoencoder_state, base = read("vae"), read("base")["average"]
    write_index(NANO, "octet/nano")
    for name in ("vocabulary.json", "judge.onnx"):
        if (STATE / name).exists():
            shutil.copy(STATE / name, NANO / name)
    (NANO / "words.json").write_text(json.dumps(known_words(), ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        shutil.copytree(STATE / name, NANO / name, dirs_exist_ok=True)
    autoencoder = load(vae(), autoencoder_state["average"])
    autoencoder.register_to_config(scaling_factor=autoencoder_state["scaling_factor"], shift_factor=autoencoder_state["shift_factor"])
    save(autoencoder, "vae")
    encoders = load(TextEncoders(), part(base, "encoders."))
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        save(getattr(encoders, name), name)
    scheduler().save_pretrained(NANO / "scheduler")
    save(load(transformer(), part(base, "transformer.")), "transformer")
    write_distilled("turbo", read("turbo")["average"], TURBO_TERMINAL)
    if flash:
        write_distilled("flash", read(flash)["average"], FLASH_TERMINAL)
    else:  # an earlier flash does not match the text encoders of this base
        shutil.rmtree(NANO / "flash", ignore_errors=True)


if __name__ == "__main__":
    main()
