"""Images of diffusers' StableDiffusion3ControlNetPipeline on the tiny checkpoint and the tiny ControlNet, as PNG. float32 on the CPU. The
latent of the control image is the mean of its distribution, because diffusers samples it without the request's generator. A Canny image has
the values of Stability's sd3_infer.py.

npx node infra/checkpoints/tiny/checkpoint.ts --variant tiny-large --out TINY/tiny-large
npx node infra/checkpoints/tiny/controlnet.ts --variant tiny-large --out TINY/controlnet
python test/golden/scripts/controlnet_images.py TINY test/golden
"""
import json
import sys
from pathlib import Path

import diffusers
import numpy as np
import PIL
import torch
import transformers
from diffusers import SD3ControlNetModel, StableDiffusion3ControlNetPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image, ImageDraw

from pipeline_arguments import arguments_of


def draw_edges(file: Path):
    """White lines on black, such as those of a Canny detector."""
    image = Image.new("RGB", (96, 64))
    draw = ImageDraw.Draw(image)
    draw.ellipse([20, 10, 70, 50], outline="white", width=2)
    draw.line([0, 60, 95, 40], fill="white", width=2)
    image.save(file)


def control_of(golden: Path, case: dict):
    image = Image.open(golden / case["control"]).convert("RGB").resize((case["width"], case["height"]), Image.LANCZOS)
    if case["type"] != "canny":
        return image
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255 * 255 * 0.5 + 0.5).permute(2, 0, 1)[None]


@torch.inference_mode()
def main(tiny: Path, golden: Path):
    DiagonalGaussianDistribution.sample = lambda self, generator=None: self.mode()
    out = golden / "controlnet"
    draw_edges(out / "edges.png")
    for case in json.loads((out / "cases.json").read_text()):
        controlnet = SD3ControlNetModel.from_pretrained(tiny / "controlnet", torch_dtype=torch.float32)
        pipeline = StableDiffusion3ControlNetPipeline.from_pretrained(
            tiny / "tiny-large", controlnet=controlnet, torch_dtype=torch.float32
        )
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(
            **arguments_of(case),
            control_image=control_of(golden, case),
            controlnet_conditioning_scale=case["scale"],
            control_guidance_start=case.get("start", 0.0),
            control_guidance_end=case.get("stop", 1.0),
        ).images
        images[0].save(out / f"{case['name']}.png")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, PIL)}
    note = {"script": "test/golden/scripts/controlnet_images.py", "versions": versions}
    (out / "made-with.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
