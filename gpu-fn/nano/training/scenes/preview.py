"""Renders a contact sheet of training images on the CPU.

    python -m training.scenes.preview sheet.png --kind pair --seed 3

Prints the captions in reading order.
"""

import argparse

import numpy as np
import torch
from PIL import Image

from ..world.vocabulary import BACKGROUNDS, STYLES
from .render import Renderer, pack
from .sampler import KINDS, Sampler
from .scene import CANVASES, NATIVE


def grid(images: torch.Tensor, columns: int = 8) -> Image.Image:
    """A contact sheet of images [N, 3, H, W] in 0..1; an incomplete last row is left out."""
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    columns = min(columns, len(pixels))
    rows = [np.concatenate([*pixels[i : i + columns]], 1) for i in range(0, len(pixels) // columns * columns, columns)]
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--kind", choices=[*KINDS, "dense"], help="of scene; any by default")
    parser.add_argument("--style", choices=STYLES, help="draw all in this style")
    parser.add_argument("--ground", choices=BACKGROUNDS, help="draw all on this background")
    parser.add_argument("--canvas", type=int, default=-1, help=f"number of one of {CANVASES}")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sampler = Sampler(options.seed, canvas=NATIVE if options.canvas < 0 else CANVASES[options.canvas])
    scenes = [sampler.scene(options.kind) for _ in range(options.count)]
    for scene in scenes:
        if options.style:
            scene.style = STYLES.index(options.style)
        if options.ground:
            scene.top = scene.bottom = BACKGROUNDS.index(options.ground)
        print(scene.caption)
    torch.set_num_threads(1)
    grid((Renderer("cpu")(pack(scenes)) + 1) / 2, options.columns).save(options.file)


if __name__ == "__main__":
    main()
