"""Images of diffusers' StableDiffusion3Pipeline on tiny-medium with one setting of a configuration file changed or, in
cases without a value, removed. The request is `medium-unguided` of test/golden/pipeline/cases.json.

npx node infra/checkpoints/tiny/checkpoint.ts --variant tiny-medium --out TINY/tiny-medium
python test/golden/scripts/checkpoints.py TINY/tiny-medium test/golden/checkpoints
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusion3Pipeline

from pipeline_arguments import arguments_of


def image(directory: Path, request: dict):
    pipeline = StableDiffusion3Pipeline.from_pretrained(directory, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(**arguments_of(request), max_sequence_length=256).images[0]


@torch.inference_mode()
def main(source: Path, out: Path):
    requests = json.loads((out.parent / "pipeline" / "cases.json").read_text())
    request = next(request for request in requests if request["name"] == "medium-unguided")
    for case in json.loads((out / "cases.json").read_text()):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "checkpoint"
            shutil.copytree(source, directory)
            file = directory / case["file"]
            config = json.loads(file.read_text())
            if "value" in case:
                config[case["key"]] = case["value"]
            else:
                del config[case["key"]]
            file.write_text(json.dumps(config))
            image(directory, request).save(out / f"{case['name']}.png")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    note = {"script": "test/golden/scripts/checkpoints.py", "versions": versions}
    (out / "made-with.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
