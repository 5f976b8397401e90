"""Images of diffusers' StableDiffusion3Pipeline with skip-layer guidance, guidance in a part of the steps, Heun's method
and custom sigmas, as PNG. float32 on the CPU, on the tiny checkpoints.

for v in tiny-medium tiny-large; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v; done
python test/golden/scripts/pipeline_sampling.py TINY test/golden/pipeline
"""
import json
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, StableDiffusion3Pipeline

from pipeline_arguments import arguments_of

COMMON = {
    "prompt": "a photorealistic flower garden with sunlight, best quality",
    "negative_prompt": "dark, blurry",
    "width": 96,
    "height": 64,
    "steps": 5,
    "guidance_scale": 4.5,
    "seed": 7,
}


def scheduler_of(pipeline, case: dict):
    config = {"shift": case.get("shift", pipeline.scheduler.config.shift)}
    if case.get("sampler") == "heun":
        return FlowMatchHeunDiscreteScheduler(**config)
    return FlowMatchEulerDiscreteScheduler(**config)


def stop_guidance(step: int):
    """diffusers' "dynamic classifier-free guidance": the prompt alone from step `step` on."""

    def on_step_end(pipeline, i, t, tensors):
        if i + 1 == step:
            pipeline._guidance_scale = 1.0
            tensors["prompt_embeds"] = tensors["prompt_embeds"][-1:]
            tensors["pooled_prompt_embeds"] = tensors["pooled_prompt_embeds"][-1:]
        return tensors

    return on_step_end


def image(root: Path, case: dict):
    pipeline = StableDiffusion3Pipeline.from_pretrained(root / case["variant"], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = scheduler_of(pipeline, case)
    options = {}
    if skip := case.get("skip_layer_guidance"):
        options = {
            "skip_guidance_layers": skip["layers"], "skip_layer_guidance_scale": skip["scale"],
            "skip_layer_guidance_start": skip["start"], "skip_layer_guidance_stop": skip["stop"],
        }
    if interval := case.get("guidance_interval"):
        options["callback_on_step_end"] = stop_guidance(int(interval["stop"] * COMMON["steps"]))
        options["callback_on_step_end_tensor_inputs"] = ["prompt_embeds", "pooled_prompt_embeds"]
    if sigmas := case.get("sigmas"):
        options["sigmas"] = sigmas
    return pipeline(**arguments_of(COMMON), **options).images[0]


@torch.inference_mode()
def main(root: Path, out: Path):
    for case in json.loads((out / "sampling.json").read_text()):
        image(root, case).save(out / f"{case['name']}.png")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    note = {"script": "test/golden/scripts/pipeline_sampling.py", "versions": versions}
    (out / "made-with.sampling.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
