"""Generates images with diffusers' StableDiffusion3Pipeline in float32 on the CPU.

    python infra/bench/diffusers_images.py CHECKPOINTS OUT [THREADS] < REQUESTS

Each line of REQUESTS is JSON: {name, checkpoint, prompt, negative_prompt, seed, steps, guidance_scale, width, height}, where checkpoint is a
directory in CHECKPOINTS. The image is OUT/name.png. The reply to each line is a line {seconds, diffusers: its version}, where seconds
includes the writing of the file. The golden images of nano are generated with:

    python infra/bench/diffusers_images.py gpu-fn/nano test/golden/nano < test/golden/nano/requests.jsonl
"""
import json
import sys
import time
from pathlib import Path

import diffusers
import torch
from diffusers import StableDiffusion3Pipeline


def open_pipeline(checkpoint: Path) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_image(pipeline: StableDiffusion3Pipeline, request: dict, file: Path) -> float:
    start = time.perf_counter()
    image = pipeline(
        request["prompt"],
        negative_prompt=request["negative_prompt"],
        width=request["width"],
        height=request["height"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
        max_sequence_length=256,
    ).images[0]
    image.save(file)
    return time.perf_counter() - start


@torch.inference_mode()
def main(checkpoints: Path, out: Path, threads: int | None = None):
    if threads:
        torch.set_num_threads(threads)
    pipelines = {}
    for line in sys.stdin:
        request = json.loads(line)
        checkpoint = request["checkpoint"]
        if checkpoint not in pipelines:
            pipelines[checkpoint] = open_pipeline(checkpoints / checkpoint)
        seconds = write_image(pipelines[checkpoint], request, out / f"{request['name']}.png")
        print(json.dumps({"seconds": seconds, "diffusers": diffusers.__version__}), flush=True)


main(*map(Path, sys.argv[1:3]), *map(int, sys.argv[3:]))
