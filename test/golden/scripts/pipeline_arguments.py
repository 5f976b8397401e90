"""The arguments of diffusers' pipelines for a request of Octet."""
import torch


def arguments_of(request: dict) -> dict:
    return {
        "prompt": request["prompt"],
        "negative_prompt": request["negative_prompt"],
        "width": request["width"],
        "height": request["height"],
        "num_inference_steps": request["steps"],
        "guidance_scale": request["guidance_scale"],
        "generator": torch.Generator("cpu").manual_seed(int(request["seed"])),
    }
