"""Trains the judge, which recognizes and counts the objects in an image and classifies its background. Used by `npm run quality`.

    python -m training.stages.judge --steps 2500

A CenterNet-style detector (arXiv 1904.07850): a center heatmap per sprite and letter on a 32 × 32 grid, whose peaks are counted, a map of
object colors, and separate background classifiers for the top and the bottom. A quarter of the training images pass through the VAE with
noisy latents, so that the judge does not rely on pixel-level detail.
"""

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

from ..models.networks import vae
from ..scenes.render import Renderer
from ..scenes.scene import NATIVE, SLOTS
from ..settings import STATE
from ..world.drawing import LETTERS
from ..world.vocabulary import BACKGROUNDS, NAMES, TINTS
from .batches import batches
from .stage import Stage, arguments, autocast, device

GRID = 32
THRESHOLD = 0.4
CANVAS = NATIVE[0]
CLASSES = len(NAMES) + len(LETTERS)
FACES = CLASSES + 2 * len(LETTERS)  # textures: sprites, then letters in three fonts


def layer(into: int, out: int, stride: int = 1) -> nn.Sequential:
    """A depthwise-separable convolution."""
    return nn.Sequential(
        nn.Conv2d(into, into, 3, stride, 1, groups=into, bias=False), nn.BatchNorm2d(into), nn.Conv2d(into, out, 1, bias=False),
        nn.BatchNorm2d(out), nn.SiLU(),
    )


class Judge(nn.Module):
    """image [B, 3, 256, 256] in 0..1 → counts and scores [B, sprites], top and bottom [B, backgrounds] (logits); then, of the likeliest place of
    each sprite, its cell and its color (0: its own) [B, sprites]; and the scores of letters where they peak [B, 26, 32, 32].
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.SiLU(), layer(24, 48, 2), layer(48, 64), layer(64, 96, 2), layer(96, 96))
        self.down = nn.ModuleList([nn.Sequential(layer(96, 160, 2), layer(160, 160), layer(160, 160)), nn.Sequential(layer(160, 192, 2), layer(192, 192))])
        self.up = nn.ModuleList([layer(192, 160), layer(160, 96)])
        self.heat = nn.Sequential(layer(96, 128), layer(128, 128), nn.Conv2d(128, CLASSES, 1))
        self.tint = nn.Sequential(layer(96, 96), layer(96, 64), nn.Conv2d(64, 1 + len(TINTS), 1))
        self.ends = nn.Linear(192 * 8, 2 * len(BACKGROUNDS))
        nn.init.constant_(self.heat[-1].bias, -5.0)

    def maps(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of centers [B, sprites and letters, 32, 32], of colors [B, colors, 32, 32] and of the background's two ends [B, 2, backgrounds]."""
        fine = self.stem(image * 2 - 1)
        middle = self.down[0](fine)
        coarse = self.down[1](middle)
        middle = middle + F.interpolate(self.up[0](coarse), scale_factor=2.0)
        fine = fine + F.interpolate(self.up[1](middle), scale_factor=2.0)
        rows = coarse.mean(3).flatten(1)  # keeps the vertical position, averages the horizontal one
        return self.heat(fine), self.tint(fine), self.ends(rows).view(-1, 2, len(BACKGROUNDS))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heat, tint, ends = self.maps(image)
        heat = heat.sigmoid()
        peaks = (heat >= F.max_pool2d(heat, 5, 1, 2)) & (heat > THRESHOLD)
        counts, letters = peaks.float().sum((2, 3))[:, : len(NAMES)], (heat * peaks)[:, len(NAMES) :]
        cells = heat[:, : len(NAMES)].flatten(2).argmax(2)
        tints = torch.gather(tint.argmax(1).flatten(1), 1, cells)
        return counts, heat[:, : len(NAMES)].amax((2, 3)), ends[:, 0], ends[:, 1], cells, tints, letters


def targets(placed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussians of a width that grows with the sprite, 1 at its center: [B, sprites and letters, 32, 32]; and colors at the centers [B, 32, 32], −1 elsewhere."""
    heat = torch.zeros(len(placed), CLASSES, GRID, GRID, device=placed.device)
    tints = torch.full((len(placed), GRID, GRID), -1, device=placed.device)
    ticks = torch.arange(GRID, device=placed.device)
    for slot in range(SLOTS):
        sprite, x, y, side, tint, _ = placed[:, slot].unbind(1)
        rows = ((sprite >= 0) & (sprite < FACES)).nonzero()[:, 0]
        cx, cy = ((v[rows] * GRID / CANVAS).floor().clamp(0, GRID - 1).view(-1, 1, 1) for v in (x, y))
        spread = (side[rows] / CANVAS * GRID / 10).clamp(min=0.6).view(-1, 1, 1)
        blob = torch.exp(-((ticks.view(1, 1, -1) - cx) ** 2 + (ticks.view(1, -1, 1) - cy) ** 2) / (2 * spread**2))
        index = sprite[rows].long()
        index = torch.where(index < len(NAMES), index, len(NAMES) + (index - len(NAMES)) % len(LETTERS))
        tints[rows, cy.flatten().long(), cx.flatten().long()] = 1 + tint[rows].long()
        heat[rows, index] = torch.maximum(heat[rows, index], blob)
    return heat, tints


def loss_of(judge: Judge, image: torch.Tensor, heat: torch.Tensor, tints: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    logits, colors, ends = judge.maps(image)
    logits = logits.float()
    p = logits.sigmoid()
    center = heat > 0.999
    found = -(F.logsigmoid(logits) * (1 - p) ** 2)[center].sum()
    absent = -(F.logsigmoid(-logits) * p**2 * (1 - heat) ** 4)[~center].sum()
    focal = (found + absent) / center.sum().clamp(min=1)
    colors = F.cross_entropy(colors.float(), tints, ignore_index=-1)
    return focal + colors + F.cross_entropy(ends.float().flatten(0, 1), background.flatten(), ignore_index=-1)


@torch.no_grad()
def worn(autoencoder, image: torch.Tensor) -> torch.Tensor:
    """Images decoded from noisy latents, which resemble generated ones."""
    latent = autoencoder.encode(image).latent_dist.mode()
    amount = 0.35 * latent.std() * torch.rand(len(latent), 1, 1, 1, device=latent.device)
    return autoencoder.decode(latent + amount * torch.randn_like(latent), return_dict=False)[0].float().clamp(-1, 1)


@torch.no_grad()
def accuracy(judge: Judge, renderer: Renderer, stream, count: int) -> dict[str, float]:
    """Accuracy on rendered scenes, the upper bound for generated images."""
    judge.eval()
    right = {"main": [], "background": [], "count": [], "color": []}
    for _ in range(count):
        batch = next(stream)
        counts, _, top, bottom, _, tints, _ = judge((renderer(batch) + 1) / 2)
        placed, background = batch["placed"].to(counts.device), batch["background"].to(counts.device)
        truth = torch.zeros_like(counts)
        for slot in range(SLOTS):
            sprite = placed[:, slot, 0].long()
            rows = ((sprite >= 0) & (sprite < len(NAMES))).nonzero()[:, 0]
            truth[rows, sprite[rows]] += 1
        main = placed[:, 0, 0].long().clamp(0, len(NAMES) - 1)
        plain = batch["style"].to(counts.device) < 0
        real = (placed[:, 0, 0] >= 0) & (placed[:, 0, 0] < len(NAMES))
        right["color"].append((tints.gather(1, main[:, None])[:, 0] == 1 + placed[:, 0, 4])[real & plain].float())
        right["main"].append((counts.gather(1, main[:, None])[:, 0] >= 1)[real].float())
        right["count"].append((counts == truth).all(1).float())
        right["background"].append(((top.argmax(1) == background[:, 0]) & (bottom.argmax(1) == background[:, 1]))[plain].float())
    judge.train()
    return {key: float(torch.cat(value).mean()) for key, value in right.items()}


def export(judge: Judge) -> None:
    """Stores weights in float16 and casts them in the graph: half the bytes, equal results."""
    names = ["counts", "scores", "top", "bottom", "cells", "tints", "letters"]
    dynamic = {name: {0: "B"} for name in ["image", *names]}
    path = STATE / "judge.onnx"
    torch.onnx.export(judge.cpu().eval(), torch.zeros(1, 3, CANVAS, CANVAS), path, input_names=["image"], output_names=names,
                      dynamic_axes=dynamic, opset_version=18, dynamo=False)
    model = onnx.load(path)
    for weight in [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) > 1]:
        model.graph.node.insert(0, onnx.helper.make_node("Cast", [f"{weight.name}.half"], [weight.name], to=onnx.TensorProto.FLOAT))
        half = onnx.numpy_helper.to_array(weight).astype(np.float16)
        model.graph.initializer.remove(weight)
        model.graph.initializer.append(onnx.numpy_helper.from_array(half, f"{weight.name}.half"))
    onnx.save(model, path)


def main() -> None:
    options = arguments(steps=2500, batch=128, checked=16)
    torch.manual_seed(options.seed)
    on = device()
    autoencoder = vae().to(on, memory_format=torch.channels_last).eval().requires_grad_(False)
    autoencoder.load_state_dict(torch.load(STATE / "vae.pt", map_location=on, weights_only=True)["average"])
    judge = Judge().to(on, memory_format=torch.channels_last)
    stage = Stage("judge", judge, options, rate=2e-3, decay=0.998)
    renderer, stream = Renderer(on), batches(options.seed + 2 + stage.step, options.batch, options.workers)
    while stage.running():
        batch = next(stream)
        image = renderer(batch).contiguous(memory_format=torch.channels_last)
        with autocast():
            quarter = len(image) // 4
            image[:quarter] = worn(autoencoder, image[:quarter])
            # A style changes the colors of a background.
            background = torch.where((batch["style"] < 0)[:, None], batch["background"], -1).to(on)
            loss = loss_of(judge, (image + 1) / 2, *targets(batch["placed"].to(on)), background)
        stage.update(loss)
    stage.save()
    judge.load_state_dict(stage.average)
    print("judge on real renders:", accuracy(judge, renderer, stream, options.checked))
    export(judge)


if __name__ == "__main__":
    main()
