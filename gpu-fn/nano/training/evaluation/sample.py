"""Generates images of the evaluation prompts with the networks in training and scores them with the judge.

../quality-prompts.json has 200 compositions of the first nano's world, ../world-prompts.json 200 with the new features: object colors,
mixed counts, relations and words on signs. Neither set is used in training.

    python -m training.evaluation.sample         writes world-prompts.json
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ..models.networks import CHANNELS, GUIDANCE, NANO, Tokenizers, scheduler
from ..scenes.preview import grid
from ..scenes.sampler import Sampler
from ..settings import STATE
from ..stages.stage import autocast
from ..world.drawing import LETTERS
from ..world.vocabulary import BACKGROUNDS, NAMES, TINTS

PROMPTS, WORLD_PROMPTS = NANO / "quality-prompts.json", NANO / "world-prompts.json"
WORLD_KINDS = {"single": 60, "mixed": 40, "pair": 60, "sign": 40}
STEPS = 28
# Natural prompts for a contact sheet, for visual inspection only.
NATURAL = ("a green sports car", "three apples and a banana", "a sign that says HI", "a lighthouse on a cliff at sunset", "a puppy on a sofa", "a wizard riding a dragon",
           "a red bicycle in front of a house", "an astronaut on the moon", "a cat wearing a crown", "two parrots and a palm tree on the beach", "a golden trophy",
           "a blue dog in the forest", "a big whale in the ocean", "a bowl of ramen and chopsticks", "a wooden chair in a living room", "a storm over the city",
           "pixel art of a knight and a castle", "a watercolor of a sunflower", "a neon guitar", "an old photograph of a train", "a penguin on an iceberg",
           "a purple elephant", "a zorblax in the forest", "two cats and four mice")


def write_prompts() -> None:
    sampler, entries = Sampler(20261129, evaluation=True), []
    for kind, count in WORLD_KINDS.items():
        while count:
            scene = sampler.scene(kind)
            if (kind == "single" and not scene.tints) or len(scene.text) > 4:
                continue
            count -= 1
            color = lambda sprite: {"color": [*TINTS][scene.tints[sprite]]} if sprite in scene.tints else {}
            sprites = [{"name": NAMES[sprite], "count": number, **color(sprite)} for sprite, number in scene.counts.items()]
            background = {"top": BACKGROUNDS[scene.top], "bottom": BACKGROUNDS[scene.bottom]}
            more = {key: value for key, value in (("relation", scene.relation), ("text", scene.text)) if value}
            entries.append({"prompt": scene.caption, "seed": 2000 + len(entries), "sprites": sprites, "background": background, **more})
    WORLD_PROMPTS.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n", encoding="utf-8")


def read_prompts(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def initial_noise(seeds: list[int], on: str, rows: int = 32, columns: int = 32) -> torch.Tensor:
    return torch.cat([torch.randn(1, CHANNELS, rows, columns, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(on)


@torch.no_grad()
def generate(denoiser, latents, prompts: list[str], noise: torch.Tensor, steps=STEPS, guidance=GUIDANCE, terminal=None, with_t5=1.0) -> torch.Tensor:
    """Generates pixels [B, 3, H, W] as in production: Euler steps, with guidance if its scale is above 1."""
    schedule, tokenize, x, on = scheduler(terminal), Tokenizers(), noise, noise.device
    schedule.set_timesteps(steps)
    sigmas, count, t5 = schedule.sigmas.to(on), len(x), torch.full((len(x),), with_t5, device=on)
    with autocast():
        texts = [prompts, [""] * count] if guidance > 1 else [prompts]
        encoded = [denoiser.encoders({key: value.to(on) for key, value in tokenize(text).items()}, t5) for text in texts]
        for sigma, following in zip(sigmas[:-1], sigmas[1:]):
            velocities = [denoiser.transformer(x, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=(sigma * 1000).expand(count),
                                               return_dict=False)[0].float() for prompt, pooled in encoded]
            velocity = velocities[0] if guidance <= 1 else velocities[1] + guidance * (velocities[0] - velocities[1])
            x = x + (following - sigma) * velocity
    return torch.cat([latents.decode(part) for part in x.split(50)])


def read_letters(heat: np.ndarray) -> str:
    """Decodes letter heatmaps [26, 32, 32] into a word, from left to right."""
    found = sorted((column, LETTERS[letter]) for letter, _, column in zip(*np.nonzero(heat)))
    return "".join(letter for _, letter in found)


def satisfies_relation(relation: str, cells: tuple[int, int]) -> bool:
    """Whether the most likely positions of two sprites satisfy a relation."""
    (ay, ax), (by, bx) = (divmod(cell, 32) for cell in cells)
    across, down, near = bx - ax, by - ay, max(abs(bx - ax), abs(by - ay)) <= 15
    return {"left": across > 3, "right": across < -3, "above": down > 3, "below": down < -3, "beside": abs(across) > abs(down),
            "on": near and down > 3, "riding": near and down > 2, "wearing": near and down < -2, "behind": near and down > 0, "front": near and down < 0}[relation]


def score_images(images: torch.Tensor, entries: list[dict], path: Path | None = None) -> dict[str, float]:
    """The share of correct images per criterion, over the prompts that specify it."""
    judge = onnxruntime.InferenceSession(path or STATE / "judge.onnx", providers=["CPUExecutionProvider"])
    looks = (judge.run(None, {"image": part.cpu().numpy()}) for part in images.split(50))
    counts, scores, top, bottom, *more = (np.concatenate(parts) for parts in zip(*looks))
    right: dict[str, list[bool]] = {}
    note = lambda key, value: right.setdefault(key, []).append(bool(value))
    for row, entry in enumerate(entries):
        indices = [NAMES.index(sprite["name"]) for sprite in entry["sprites"]]
        if indices:
            note("main", indices[0] in scores[row].argsort()[::-1][: len(indices)])
            note("clear", counts[row, indices[0]] >= 1)
            note("count", all(counts[row, i] == sprite["count"] for i, sprite in zip(indices, entry["sprites"])))
        ends = {"top": BACKGROUNDS[top[row].argmax()], "bottom": BACKGROUNDS[bottom[row].argmax()]}
        note("background", ends == entry["background"])
        if more:
            cells, tints, letters = more
            for i, sprite in zip(indices, entry["sprites"]):
                if "color" in sprite:
                    note("color", tints[row, i] == 1 + [*TINTS].index(sprite["color"]))
            if "relation" in entry:
                note("relation", all(counts[row, i] >= 1 for i in indices) and satisfies_relation(entry["relation"], (cells[row, indices[0]], cells[row, indices[1]])))
            if "text" in entry:
                note("word", read_letters(letters[row]) == entry["text"])
    return {key: round(float(np.mean(values)), 4) for key, values in right.items()}


@torch.no_grad()
def evaluate(name: str, denoiser, latents, on: str, prompts: int, settings: dict[str, dict] | None = None) -> None:
    """Prints the accuracy of each setting on the first `prompts` of both evaluation sets, and keeps pictures as STATE/name-setting-set.jpg."""
    torch.compiler.set_stance("force_eager")
    denoiser.eval()
    for setting, options in (settings or {"full": {}, "lite": {"with_t5": 0.0}}).items():
        for set_name, path in (("old", PROMPTS), ("world", WORLD_PROMPTS)):
            entries = read_prompts(path)[:prompts]
            images = generate(denoiser, latents, [entry["prompt"] for entry in entries], initial_noise([entry["seed"] for entry in entries], on), **options)
            print(f"{name} {setting} {set_name}: {score_images(images, entries)}", flush=True)
            grid(images[:: max(1, len(images) // 48)][:48]).save(STATE / f"{name}-{setting}-{set_name}.jpg", quality=88)
        natural = NATURAL[: max(6, prompts)]
        images = generate(denoiser, latents, [*natural], initial_noise([*range(len(natural))], on), **options)
        grid(images, 6).save(STATE / f"{name}-{setting}-natural.jpg", quality=90)
        wide = generate(denoiser, latents, [*NATURAL[:6]], initial_noise([*range(6)], on, 22, 46), **options)
        grid(wide, 2).save(STATE / f"{name}-{setting}-wide.jpg", quality=90)
    denoiser.train()
    torch.compiler.set_stance("default")


if __name__ == "__main__":
    write_prompts()
