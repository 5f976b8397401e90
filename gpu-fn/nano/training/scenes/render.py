"""Draws scenes on the GPU: a background, then sprites over it, then a style: [B, 3, H, W] in −1..1.

Sizes are in pixels of the canvas; a sprite drawn much smaller than its texture is read from a blurred copy, so that nothing aliases.
"""

import numpy as np
import torch
import torch.nn.functional as F

from ..world.drawing import TEXTURE, find_recolorable
from ..world.vocabulary import CATEGORIES, NAMES, RECOLORED_CATEGORIES, TEXTURES, TINTS
from .grounds import Grounds
from .scene import SLOTS, Scene
from .styles import apply_styles

SHADOW = 0.28  # darkness of the shadow under a sprite on land
CHANNELS = 6  # premultiplied RGB, alpha, and the coverage and brightness of the recolorable part


def pack(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Scenes of one canvas as tensors: placed [B, SLOTS, 6] (sprite −1: empty slot), background [B, 2], style [B], seed [B], canvas."""
    placed = np.full((len(scenes), SLOTS, 6), -1, np.float32)
    for row, scene in enumerate(scenes):
        placed[row, : len(scene.placed)] = [(p.sprite, p.x, p.y, p.side, p.tint, p.shadow) for p in scene.placed] or np.empty((0, 6))
    return {
        "placed": torch.from_numpy(placed),
        "background": torch.tensor([[scene.top, scene.bottom] for scene in scenes]),
        "style": torch.tensor([scene.style for scene in scenes]),
        "seed": torch.tensor([scene.seed for scene in scenes]),
        "canvas": torch.tensor(scenes[0].canvas),
    }


def load_textures() -> torch.Tensor:
    """[sprites, 6, 128, 128]."""
    textures = np.load(TEXTURES)["textures"]
    masks = np.zeros((len(textures), 2, TEXTURE, TEXTURE), np.float32)
    for i, category in enumerate(CATEGORIES):
        if category in RECOLORED_CATEGORIES:
            masks[i] = find_recolorable(textures[i])
    rgba = torch.from_numpy(textures).permute(0, 3, 1, 2).float() / 255
    rgba[:, :3] *= rgba[:, 3:]  # premultiplied, so that transparent pixels do not bleed into edges
    mask = torch.from_numpy(masks) * rgba[:, 3:]
    mask[:, 1] *= (mask[:, 0] > 0).float()
    return torch.cat([rgba, mask], 1)


class Renderer:
    def __init__(self, device: str):
        textures = load_textures()
        assert len(textures) > len(NAMES)
        self.count = len(textures)
        half = F.interpolate(textures, size=TEXTURE // 2, mode="area")
        self.textures = torch.cat([textures, F.interpolate(half, size=TEXTURE, mode="bicubic").clamp(0, 1)]).half().to(device)
        self.tints = torch.tensor([*TINTS.values()], device=device).float() / 255
        self.materials = {name: [*TINTS].index(name) for name in ("golden", "silver", "wooden", "stone")}
        self.device = device
        self.grounds: dict[tuple[int, int], Grounds] = {}

    @torch.no_grad()
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        width, height = batch["canvas"].tolist()
        if (width, height) not in self.grounds:
            self.grounds[width, height] = Grounds(width, height, self.device)
        ground = self.grounds[width, height]
        placed = batch["placed"].to(self.device)
        noise = torch.Generator(self.device).manual_seed(int(batch["seed"][0]))
        image = ground(batch["background"].to(self.device), noise)
        for slot in range(SLOTS):
            rows = (placed[:, slot, 0] >= 0).nonzero()[:, 0]
            for part in rows.split(256) if len(rows) else ():
                image[part] = self.put(image[part], placed[part, slot], ground)
        return apply_styles(image.clamp(0, 1), batch["style"].to(self.device)) * 2 - 1

    def put(self, image: torch.Tensor, placed: torch.Tensor, ground: Grounds) -> torch.Tensor:
        """Composites one sprite onto each image, its shadow first."""
        shadow = placed[:, 5] > 0
        if shadow.any():
            x, y, side = (placed[shadow, i].view(-1, 1, 1, 1) / ground.height for i in (1, 2, 3))
            distance = ((ground.x - x) / (0.40 * side)) ** 2 + ((ground.y - y - 0.475 * side) / (0.075 * side)) ** 2
            image[shadow] = image[shadow] * (1 - SHADOW * (1.3 * (1 - distance)).clamp(0, 1))
        sprite = self.sprite(placed, ground)
        return image * (1 - sprite[:, 3:]) + sprite[:, :3]

    def sprite(self, placed: torch.Tensor, ground: Grounds) -> torch.Tensor:
        """Premultiplied RGBA [B, 4, H, W] of one sprite each."""
        index, x, y, side, tint, _ = placed.unbind(1)
        index = index.long() + self.count * (side < 0.62 * TEXTURE).long()
        theta = torch.zeros(len(placed), 2, 3, device=self.device)
        for axis, (at, length) in enumerate(((x, ground.width), (y, ground.height))):
            theta[:, axis, axis] = length / side
            theta[:, axis, 2] = -(at / length * 2 - 1) * length / side
        grid = F.affine_grid(theta, [len(placed), CHANNELS, ground.height, ground.width], align_corners=False)
        texture = F.grid_sample(self.textures[index].float(), grid, mode="bicubic", align_corners=False).clamp(0, 1)
        color, alpha, mask, shade = texture.split((3, 1, 1, 1), 1)
        color = color.minimum(alpha)  # bicubic overshoot would leave bright dots along the edges
        tinted = (tint >= 0).nonzero()[:, 0]
        if len(tinted):
            share = (mask[tinted] / alpha[tinted].clamp(min=0.02)).clamp(0, 1)
            bright = shade[tinted] / alpha[tinted].clamp(min=0.02)
            color[tinted] = color[tinted] * (1 - share) + self.recolor(tint[tinted].long(), bright, ground) * share * alpha[tinted]
        return torch.cat([color, alpha], 1)

    def recolor(self, tint: torch.Tensor, bright: torch.Tensor, ground: Grounds) -> torch.Tensor:
        """The color of a tint at a given sprite brightness: 0..1, about 0.77 for the tint's nominal color."""
        level = bright * 1.3
        metal = ((tint == self.materials["golden"]) | (tint == self.materials["silver"])).float().view(-1, 1, 1, 1)
        level = level + metal * 0.22 * torch.sin(9 * level + 16 * (ground.x + ground.y))
        grain = (tint == self.materials["wooden"]).float().view(-1, 1, 1, 1) * 0.13 * torch.sin(150 * ground.y + 5 * torch.sin(11 * ground.x))
        speck = (tint == self.materials["stone"]).float().view(-1, 1, 1, 1) * 0.16 * torch.sin(130 * ground.x + 60 * ground.y) * torch.sin(110 * ground.y - 70 * ground.x)
        level = level + grain + speck
        color = self.tints[tint][..., None, None]
        dark = color.amax(1, keepdim=True) < 0.2  # keep the shading of black objects visible: bright parts become gray
        shaded = torch.where(dark, color + 0.22 * level.clamp(0, 1) ** 2, color * (0.35 + 0.65 * level.clamp(0, 1)))
        return (shaded + (1 - shaded) * 0.9 * (level - 1).clamp(0, 0.5)).clamp(0, 1)
