"""Images of diffusers' StableDiffusion3Img2ImgPipeline and StableDiffusion3InpaintPipeline on the tiny checkpoints and on nano, as PNG.
float32 on the CPU; a case of another tier has the weights of that tier. The inpainting pipeline of diffusers 0.42.1 decodes without the VAE's
shift (diffusers pull request 14671), so its latents are decoded here as the other pipelines decode them.

for v in tiny-medium tiny-odd; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v; done
python test/golden/scripts/image_input.py TINY gpu-fn/nano test/golden [CASE …]
"""
import json
import sys
from pathlib import Path

import diffusers
import ml_dtypes
import PIL
import torch
import transformers
from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusion3InpaintPipeline
from PIL import Image, ImageDraw

from pipeline_arguments import arguments_of
from quantized import quantize

NETWORKS = ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"]


def open_pipeline(directory: Path, case: dict):
    cls = StableDiffusion3InpaintPipeline if "mask" in case else StableDiffusion3Img2ImgPipeline
    pipeline = cls.from_pretrained(directory, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if case["tier"] != "fp32":
        for name in NETWORKS:
            quantize(getattr(pipeline, name))
    return pipeline


def render(directory: Path, golden: Path, case: dict):
    pipeline = open_pipeline(directory, case)
    read = lambda name: Image.open(golden / case[name])
    mask = {"mask_image": read("mask")} if "mask" in case else {}
    latents = pipeline(
        **arguments_of(case),
        image=read("image").convert("RGB"),
        **mask,
        strength=case["strength"],
        output_type="latent",
    ).images
    config = pipeline.vae.config
    decoded = pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor, return_dict=False)[0]
    return pipeline.image_processor.postprocess(decoded, output_type="pil")[0]


def draw_mask(file: Path):
    mask = Image.new("L", (96, 64), 0)
    ImageDraw.Draw(mask).ellipse([20, 10, 70, 50], fill=255)
    mask.save(file)


@torch.inference_mode()
def main(tiny: Path, nano: Path, golden: Path, only: list[str]):
    out = golden / "image-input"
    draw_mask(out / "ellipse.png")
    for case in json.loads((out / "cases.json").read_text()):
        if only and case["name"] not in only:
            continue
        directory = nano if case["checkpoint"] == "nano" else tiny / case["checkpoint"]
        render(directory, golden, case).save(out / f"{case['name']}.png")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, ml_dtypes, PIL)}
    note = {"script": "test/golden/scripts/image_input.py", "versions": versions}
    (out / "made-with.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
