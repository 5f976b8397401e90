"""Images of diffusers' StableDiffusion3Pipeline on the tiny checkpoints, as PNG. float32 on the CPU; a case of an FP8
tier has the weights of that tier. With --single-file, `NAME.single-file.png` by from_single_file, in which CLIP-L is
pooled without its projection.

for v in tiny-medium tiny-large tiny-sd3 tiny-odd; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v; done
python test/golden/scripts/pipeline.py TINY test/golden/pipeline
for v in tiny-medium tiny-large tiny-sd3; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v/single --layout single-file; done
python test/golden/scripts/pipeline.py TINY test/golden/pipeline --single-file
"""
import json
import sys
from pathlib import Path

import diffusers
import ml_dtypes
import torch
import transformers
from diffusers import StableDiffusion3Pipeline
from transformers import T5EncoderModel

from pipeline_arguments import arguments_of
from quantized import quantize


def open_pipeline(directory: Path, single_file: bool):
    if not single_file:
        return StableDiffusion3Pipeline.from_pretrained(directory, dtype=torch.float32)
    # Given, because diffusers 0.42 leaves T5's tied embedding without values.
    t5 = T5EncoderModel.from_pretrained(directory / "text_encoder_3", dtype=torch.float32)
    file = directory / "single" / f"{directory.name}.safetensors"
    return StableDiffusion3Pipeline.from_single_file(
        str(file), config=str(directory), text_encoder_3=t5, dtype=torch.float32, local_files_only=True
    )


def image(root: Path, case: dict, single_file: bool):
    pipeline = open_pipeline(root / case["variant"], single_file)
    pipeline.set_progress_bar_config(disable=True)
    if not case["t5"] or case["tier"] == "fp8-lite":
        pipeline.text_encoder_3 = None
    if case["tier"] != "fp32":
        for name in ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"]:
            if model := getattr(pipeline, name):
                quantize(model)
    return pipeline(
        **arguments_of(case),
        prompt_2=case.get("prompt_2"),
        prompt_3=case.get("prompt_3"),
        max_sequence_length=case.get("max_sequence_length", 256),
    ).images[0]


@torch.inference_mode()
def main(root: Path, out: Path, single_file: bool):
    suffix = ".single-file" if single_file else ""
    for case in json.loads((out / "cases.json").read_text()):
        if single_file and case["variant"] == "tiny-odd":
            continue
        image(root, case, single_file).save(out / f"{case['name']}{suffix}.png")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, ml_dtypes)}
    note = {"script": "test/golden/scripts/pipeline.py", "versions": versions}
    (out / f"made-with{suffix}.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]), "--single-file" in sys.argv)
