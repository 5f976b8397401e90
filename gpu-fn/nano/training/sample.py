"""Pictures of the evaluation prompts from the networks in training, and what the judge says of them.

The set is ../quality-prompts.json, written here once: 200 compositions that training never has.

    python -m training.sample         writes the prompts
"""

import json

import numpy as np
import onnxruntime
import torch
from PIL import Image

from .models import NANO, Tokenizers, scheduler
from .scenes import NAMES, Sampler
from .stage import STATE, autocast
from .vocabulary import BACKGROUNDS

PROMPTS = NANO / "quality-prompts.json"
KINDS = {"single": 100, "count": 40, "pair": 40, "corner": 10, "many": 10}
GUIDANCE, STEPS = 5.0, 28


def write_prompts() -> None:
    sampler, entries = Sampler(20261126, evaluation=True), []
    for kind, count in KINDS.items():
        for _ in range(count):
            scene = sampler.scene(kind)
            sprites = [{"name": NAMES[sprite], "count": number} for sprite, number in scene.counts.items()]
            background = {"top": BACKGROUNDS[scene.top], "bottom": BACKGROUNDS[scene.bottom]}
            entries.append({"prompt": scene.caption, "seed": 1000 + len(entries), "sprites": sprites, "background": background, "simple": scene.simple})
    PROMPTS.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n", encoding="utf-8")


def noise_of(seeds: list[int], on: str) -> torch.Tensor:
    return torch.cat([torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in seeds]).to(on)


@torch.no_grad()
def generate(denoiser, latents, ids: dict, empty: dict, seeds: list[int], on: str, steps=STEPS, guidance=GUIDANCE, terminal=None, with_t5=1.0):
    """Pixels [B, 3, 256, 256] as the product makes them: Euler steps, guidance above a scale of 1."""
    schedule = scheduler(terminal)
    schedule.set_timesteps(steps)
    sigmas, x = schedule.sigmas.to(on), noise_of(seeds, on)
    count, t5 = len(x), torch.full((len(x),), with_t5, device=on)
    with autocast():
        prompts = [denoiser.encoders(ids, t5)]
        if guidance > 1:
            prompts.append(denoiser.encoders({key: value.expand(count, -1) for key, value in empty.items()}, t5))
        for sigma, following in zip(sigmas[:-1], sigmas[1:]):
            velocities = [
                denoiser.transformer(x, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=(sigma * 1000).expand(count),
                                     return_dict=False)[0].float() for prompt, pooled in prompts
            ]
            velocity = velocities[0] if guidance <= 1 else velocities[1] + guidance * (velocities[0] - velocities[1])
            x = x + (following - sigma) * velocity
    return torch.cat([latents.decode(part) for part in x.split(50)])


def grid(images: torch.Tensor, columns: int = 8) -> Image.Image:
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate([*pixels[i : i + columns]], 1) for i in range(0, len(pixels) // columns * columns, columns)]
    return Image.fromarray(np.concatenate(rows))


def judged(images: torch.Tensor, entries: list[dict]) -> dict[str, float]:
    """The shares of pictures with the main sprite, the background and all counts right, by ../judge.onnx."""
    judge = onnxruntime.InferenceSession(NANO / "judge.onnx", providers=["CPUExecutionProvider"])
    looks = (judge.run(None, {"image": part.cpu().numpy()}) for part in images.split(50))
    counts, _, top, bottom = (np.concatenate(parts) for parts in zip(*looks))
    right = {"main": 0, "background": 0, "count": 0}
    for row, entry in enumerate(entries):
        found = {sprite["name"]: counts[row, NAMES.index(sprite["name"])] for sprite in entry["sprites"]}
        right["main"] += found[entry["sprites"][0]["name"]] >= 1
        right["count"] += all(found[sprite["name"]] == sprite["count"] for sprite in entry["sprites"])
        ends = {"top": BACKGROUNDS[top[row].argmax()], "bottom": BACKGROUNDS[bottom[row].argmax()]}
        right["background"] += ends == entry["background"]
    return {key: round(float(value) / len(entries), 4) for key, value in right.items()}


@torch.no_grad()
def evaluate(name: str, denoiser, latents, on: str, settings: dict[str, dict] | None = None) -> None:
    """Prints the accuracy of each setting on the evaluation set, and keeps pictures as STATE/name-setting.jpg."""
    entries = json.loads(PROMPTS.read_text(encoding="utf-8"))
    tokenize = Tokenizers()
    ids = {key: value.to(on) for key, value in tokenize([entry["prompt"] for entry in entries]).items()}
    empty = {key: value.to(on) for key, value in tokenize([""]).items()}
    seeds = [entry["seed"] for entry in entries]
    torch.compiler.set_stance("force_eager")
    denoiser.eval()
    for setting, options in (settings or {"full": {}, "lite": {"with_t5": 0.0}}).items():
        images = generate(denoiser, latents, ids, empty, seeds, on, **options)
        print(f"{name} {setting}: {judged(images, entries)}", flush=True)
        grid(images[::4][:48]).save(STATE / f"{name}-{setting}.jpg", quality=88)
    denoiser.train()
    torch.compiler.set_stance("default")


if __name__ == "__main__":
    write_prompts()
