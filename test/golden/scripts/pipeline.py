"""Images of diffusers' StableDiffusion3Pipeline on the tiny checkpoints, as PNG. float32 on the CPU; a case of an FP8
tier has the weights of that tier.

for v in tiny-medium tiny-large tiny-sd3 tiny-odd; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v; done
python test/golden/scripts/pipeline.py TINY test/golden/pipeline
"""
import json
import sys
from pathlib import Path

import diffusers
import ml_dtypes
import torch
import transformers
from diffusers import StableDiffusion3Pipeline

from quantized import quantize


def image(root: Path, case: dict):
    pipeline = StableDiffusion3Pipeline.from_pretrained(root / case["variant"], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if not case["t5"] or case["tier"] == "fp8-lite":
        pipeline.text_encoder_3 = None
    if case["tier"] != "fp32":
        for name in ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"]:
            if model := getattr(pipeline, name):
                quantize(model)
    return pipeline(
        case["prompt"],
        negative_prompt=case["negative_prompt"],
        width=case["width"],
        height=case["height"],
        num_inference_steps=case["steps"],
        guidance_scale=case["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(case["seed"]),
        max_sequence_length=256,
    ).images[0]


@torch.inference_mode()
def main(root: Path, out: Path):
    for case in json.loads((out / "cases.json").read_text()):
        image(root, case).save(out / f"{case['name']}.png")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, ml_dtypes)}
    note = {"script": "test/golden/scripts/pipeline.py", "versions": versions}
    (out / "made-with.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
