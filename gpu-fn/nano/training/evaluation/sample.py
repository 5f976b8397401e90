"""Generates images of the evaluation prompts with the networks in training and scores them with the judge.

../quality-prompts.json has 200 compositions of one or several sprites, ../world-prompts.json 200 with object colors, mixed counts, relations
and words on signs, ../natural-prompts.json 60 prompts in the style of users. None is used in training.

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

PROMPTS, WORLD_PROMPTS, NATURAL_PROMPTS = (NANO / f"{name}-prompts.json" for name in ("quality", "world", "natural"))
WORLD_KINDS = {"single": 60, "mixed": 40, "pair": 60, "sign": 40}
STEPS = 28


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


def judge_image(entry: dict, counts: np.ndarray, scores: np.ndarray, ends: dict[str, str], cells: np.ndarray, tints: np.ndarray, word: str) -> dict[str, bool]:
    """Evaluates an image by each criterion of its prompt, and by all of them (`shown`). The criteria are those of infra/quality/verdict.ts."""
    sprites = entry.get("sprites", [])
    meanings = [[NAMES.index(name) for name in (sprite["name"], *sprite.get("or", ()))] for sprite in sprites]
    seen = [sum(counts[index] for index in each) for each in meanings]
    best = [next((index for index in each if counts[index] >= 1), each[0]) for each in meanings]
    right = {}
    if sprites:
        likeliest = scores.argsort()[::-1][: len(sprites)]
        right["main"], right["clear"] = any(index in likeliest for index in meanings[0]), seen[0] >= 1
    if counted := [(number, sprite["count"]) for number, sprite in zip(seen, sprites) if "count" in sprite]:
        right["count"] = all(number == asked for number, asked in counted)
    if colored := [(index, sprite["color"]) for index, sprite in zip(best, sprites) if "color" in sprite]:
        right["color"] = all(tints[index] == 1 + [*TINTS].index(color) for index, color in colored)
    if "background" in entry:
        right["background"] = ends == entry["background"]
    if "relation" in entry:
        right["relation"] = all(number >= 1 for number in seen) and satisfies_relation(entry["relation"], (cells[best[0]], cells[best[1]]))
    if "text" in entry:
        right["word"] = word == entry["text"]
    return {**right, "shown": all(right.values()) and all(number >= 1 for number in seen)} if right else {}


def score_images(images: torch.Tensor, entries: list[dict], path: Path | None = None) -> dict[str, float]:
    """Fraction of correct images per criterion, over the prompts with that criterion."""
    judge = onnxruntime.InferenceSession(path or judge_path(), providers=["CPUExecutionProvider"])
    looks = (judge.run(None, {"image": part.cpu().numpy()}) for part in images.split(50))
    counts, scores, top, bottom, cells, tints, letters = (np.concatenate(parts) for parts in zip(*looks))
    right: dict[str, list[bool]] = {}
    for row, entry in enumerate(entries):
        ends = {"top": BACKGROUNDS[top[row].argmax()], "bottom": BACKGROUNDS[bottom[row].argmax()]}
        for key, value in judge_image(entry, counts[row], scores[row], ends, cells[row], tints[row], read_letters(letters[row])).items():
            right.setdefault(key, []).append(bool(value))
    return {key: round(float(np.mean(values)), 4) for key, values in right.items()}


def judge_path() -> Path:
    """The judge in the state folder, or the shipped one if there is none."""
    trained = STATE / "judge.onnx"
    return trained if trained.exists() else NANO / "judge.onnx"


@torch.no_grad()
def evaluate(name: str, denoiser, latents, on: str, prompts: int, settings: dict[str, dict] | None = None) -> dict[str, dict[str, float]]:
    """Prints and returns the accuracy of each setting on the first `prompts` of each evaluation set. Writes contact sheets STATE/name-setting-set.jpg."""
    torch.compiler.set_stance("force_eager")
    denoiser.eval()
    accuracies = {}
    for setting, options in (settings or {"full": {}, "lite": {"with_t5": 0.0}}).items():
        for set_name, path in (("old", PROMPTS), ("world", WORLD_PROMPTS), ("natural", NATURAL_PROMPTS)):
            entries = read_prompts(path)[:prompts]
            images = generate(denoiser, latents, [entry["prompt"] for entry in entries], initial_noise([entry["seed"] for entry in entries], on), **options)
            accuracies[f"{setting} {set_name}"] = score_images(images, entries)
            print(f"{name} {setting} {set_name}: {accuracies[f'{setting} {set_name}']}", flush=True)
            sheet = grid(images, 10) if set_name == "natural" else grid(images[:: max(1, len(images) // 48)][:48])
            sheet.save(STATE / f"{name}-{setting}-{set_name}.jpg", quality=88)
        wide = generate(denoiser, latents, [entry["prompt"] for entry in read_prompts(NATURAL_PROMPTS)[:6]], initial_noise([*range(6)], on, 22, 46), **options)
        grid(wide, 2).save(STATE / f"{name}-{setting}-wide.jpg", quality=90)
    denoiser.train()
    torch.compiler.set_stance("default")
    return accuracies


if __name__ == "__main__":
    write_prompts()
