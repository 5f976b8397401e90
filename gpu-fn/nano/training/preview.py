"""Renders a contact sheet of training images on the CPU.

    python -m training.preview sheet.png --kind pair --seed 3

Prints the captions in reading order.
"""

import argparse

import torch

from .render import Renderer, pack
from .sample import grid
from .sampler import KINDS, Sampler
from .scenes import CANVASES, NATIVE
from .vocabulary import BACKGROUNDS, STYLES


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
