"""Numeric scene descriptions and sprite placement.

Workers sample and tokenize scenes (sampler.py), and the GPU renders them (render.py). `held_out` reserves every eighth pair of main sprite
and background for evaluation.
"""

import random
import zlib
from dataclasses import dataclass, field, replace

from ..world.drawing import LETTER_FONTS, LETTERS
from ..world.vocabulary import BACKGROUNDS, NAMES

SIGN = len(NAMES) + len(LETTER_FONTS) * len(LETTERS)
BANNER = SIGN + 1
SLOTS = 9  # a sign and eight letters
NATIVE = (256, 256)
# Of about as many pixels as the native one, in tokens of 16 pixels; from 1:2 to 2:1.
CANVASES = ((320, 208), (208, 320), (368, 176), (176, 368), (288, 224), (224, 288))
# Sprites have few sizes, and positions on a grid of one transformer token (a patch of 2 × 2 latents of 8 × 8 pixels), because a small
# network learns sharp images of each object for a few sizes and offsets only.
SIDES, CELL = (48, 64, 80, 96, 128, 160, 192), 16
SIGN_SIDE, BOARD = 224, 96  # of the sign, and the height of its letters


@dataclass
class Placed:
    sprite: int
    x: float  # of the center, in pixels
    y: float
    side: float
    tint: int = -1  # index of TINTS
    shadow: bool = False


@dataclass
class Scene:
    caption: str
    placed: list[Placed]
    top: int
    bottom: int  # indices of BACKGROUNDS; they differ in a gradient
    seed: int  # of the random parts of the ground
    style: int = -1  # index of STYLES
    simple: bool = False
    counts: dict[int, int] = field(default_factory=dict)  # sprites that the caption names
    tints: dict[int, int] = field(default_factory=dict)  # their colors in the caption, indices of TINTS
    text: str = ""
    relation: str = ""
    canvas: tuple[int, int] = NATIVE


def held_out(sprite: int, background: int) -> bool:
    return zlib.crc32(f"{NAMES[sprite]}|{BACKGROUNDS[background]}".encode()) % 8 == 0


def snap(at: float, side: float, length: int) -> float:
    """The nearest grid position at which a sprite of `side` fits entirely within the image."""
    steps = round((min(max(at, side / 2), length - side / 2) - side / 2) / CELL)
    return side / 2 + min(steps, int(length - side) // CELL) * CELL


def on_grid(placed: list[Placed], canvas: tuple[int, int]) -> list[Placed]:
    """Moves sprites to the nearest grid positions without overlap, shrinking them if there is no room."""
    width, height = canvas
    settled: list[Placed] = []
    for each in placed:
        for side in [s for s in reversed(SIDES) if s <= each.side]:
            columns = [side / 2 + at for at in range(0, width - int(side) + 1, CELL)]
            rows = [side / 2 + at for at in range(0, height - int(side) + 1, CELL)]
            free = [(a, b) for a in columns for b in rows if all(max(abs(a - p.x), abs(b - p.y)) >= (side + p.side) / 2 for p in settled)]
            if free:
                x, y = min(free, key=lambda place: (place[0] - each.x) ** 2 + (place[1] - each.y) ** 2)
                settled.append(replace(each, x=x, y=y, side=side))
                break
    return settled


def scatter(r: random.Random, sprites: list[Placed], canvas: tuple[int, int]) -> list[Placed]:
    """Sprites of one size that do not touch: in a row, in rows, or anywhere."""
    width, height = canvas
    count = len(sprites)
    side = r.choice({1: (96, 128), 2: (80, 96), 3: (64, 80), 4: (64, 80), 5: (64, 80), 6: (64, 80)}[count])
    columns = count if r.random() < 0.4 and count * side <= width else max(1, min(count, round((count * width / height) ** 0.5 + 0.2)))
    columns = max(1, min(columns, width // side))
    rows = -(-count // columns)
    if rows * side > height or (count < 5 and r.random() < 0.35):
        places = [(r.uniform(side / 2, width - side / 2), r.uniform(side / 2, height - side / 2)) for _ in sprites]
    else:
        places = [((i % columns + 0.5) * width / columns, (i // columns + 0.5) * height / rows) for i in range(columns * rows)]
        shift = r.uniform(-20, 20) if rows == 1 else 0
        places = [(x + r.uniform(-8, 8), y + shift + r.uniform(-8, 8)) for x, y in (r.sample(places, count) if r.random() < 0.5 else places[:count])]
    return on_grid([replace(each, x=x, y=y, side=side) for each, (x, y) in zip(sprites, places)], canvas)


def relate(r: random.Random, relation: str, main: Placed, other: Placed, canvas: tuple[int, int]) -> list[Placed]:
    """Two sprites in a relation, the nearer one last."""
    width, height = canvas
    if relation in ("left", "right", "beside", "above", "below"):
        side = r.choice((80, 96))
        near, far = (0.25, 0.75) if relation in ("left", "above") or (relation == "beside" and r.random() < 0.5) else (0.75, 0.25)
        drift = r.uniform(-24, 24)
        upright = relation in ("above", "below")
        place = (lambda at: (width / 2 + drift, height * at)) if upright else (lambda at: (width * at, height / 2 + drift))
        (ax, ay), (bx, by) = place(near), place(far)
        return on_grid([replace(main, x=ax, y=ay, side=side), replace(other, x=bx, y=by, side=side)], canvas)
    small, large = {"wearing": (64, 128), "riding": (80, 128)}.get(relation) or r.choice(((64, 96), (80, 96), (80, 128)))
    across, low = width / 2 + r.uniform(-24, 24), height - large / 2 - r.choice((8, 24))
    if relation in ("on", "riding"):
        base = replace(other, x=snap(across, large, width), y=snap(low, large, height), side=large)
        overlap = 0.62 if relation == "riding" else 0.86
        top = replace(main, x=snap(base.x, small, width), y=snap(base.y - overlap * (large + small) / 2, small, height), side=small)
        return [base, top]
    if relation == "wearing":
        base = replace(main, x=snap(across, large, width), y=snap(height / 2 + 24, large, height), side=large)
        return [base, replace(other, x=snap(base.x, small, width), y=snap(base.y - 0.40 * large - 0.28 * small, small, height), side=small)]
    back, front = (main, other) if relation == "behind" else (other, main)
    front = replace(front, x=snap(across, 96, width), y=snap(height - 80, 96, height), side=96)
    shift = r.choice((-1, 1)) * 0.42 * 96
    return [replace(back, x=snap(front.x + shift, 96, width), y=snap(front.y - 0.5 * 96, 96, height), side=96), front]
