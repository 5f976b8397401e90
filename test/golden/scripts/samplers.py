"""Writes test/golden/samplers.json: samplers and schedules of diffusers, k-diffusion and ComfyUI.

    pip install --no-deps k-diffusion torchdiffeq torchsde trampoline
    python test/golden/scripts/samplers.py test/golden/samplers.json

Stability-AI/sd3.5 sd3_impls.py @ fbf8f48 and ComfyUI comfy/k_diffusion/sampling.py @ a125cd8 have k-diffusion's `sample_dpmpp_2m` and
`sample_heun`. The schedules are written here from comfy/samplers.py and comfy/model_sampling.py `ModelSamplingDiscreteFlow` @ a125cd8.
"""

import importlib.metadata
import importlib.util
import json
import sys
import types
from pathlib import Path

import diffusers
import numpy
import scipy
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FlowMatchLCMScheduler
from scipy.stats import beta

# The package itself imports modules that only training needs.
k_diffusion = types.ModuleType("k_diffusion")
k_diffusion.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
sys.modules["k_diffusion"] = k_diffusion
from k_diffusion.sampling import sample_dpmpp_2m, sample_euler, sample_heun  # noqa: E402

SHIFT = 3.0


def shifted(t: torch.Tensor, shift: float) -> torch.Tensor:
    return shift * t / (1 + (shift - 1) * t)


def trained(shift: float) -> torch.Tensor:
    return shifted(torch.arange(1, 1001) / 1000, shift)


def simple(steps: int, shift: float) -> list[float]:
    levels = trained(shift)
    return [float(levels[-(1 + int(i * len(levels) / steps))]) for i in range(steps)]


def sgm_uniform(steps: int, shift: float) -> list[float]:
    levels = trained(shift)
    timesteps = torch.linspace(levels[-1] * 1000, levels[0] * 1000, steps + 1)[:-1]
    return [float(shifted(t / 1000, shift)) for t in timesteps]


def beta_levels(steps: int, shift: float) -> list[float]:
    levels = trained(shift)
    indices = numpy.rint(beta.ppf(1 - numpy.linspace(0, 1, steps, endpoint=False), 0.6, 0.6) * 999)
    return [float(levels[int(i)]) for k, i in enumerate(indices) if k == 0 or i != indices[k - 1]]


def schedules() -> list[dict]:
    spacings = {"simple": simple, "sgm_uniform": sgm_uniform, "beta": beta_levels}
    return [
        {"schedule": name, "steps": steps, "shift": shift, "sigmas": [*levels(steps, shift), 0.0]}
        for name, levels in spacings.items() for steps in (1, 2, 4, 7, 28, 50, 100) for shift in (1.0, 3.0, 5.0)
    ]


def custom() -> list[dict]:
    cases = []
    for sigmas in ([1.0, 0.7, 0.4, 0.1], [0.9], [1.0, 0.999, 0.002]):
        for config in ({}, {"shift_terminal": 0.05}):
            scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, **config)
            scheduler.set_timesteps(sigmas=sigmas)
            cases.append({"given": sigmas, **config, "sigmas": scheduler.sigmas.tolist()})
    return cases


def spacings() -> list[dict]:
    cases = []
    for spacing in ("karras", "exponential", "beta"):
        for steps in (1, 4, 28):
            scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, **{f"use_{spacing}_sigmas": True})
            scheduler.set_timesteps(steps)
            cases.append({"spacing": spacing, "steps": steps, "sigmas": scheduler.sigmas.tolist()})
    return cases


def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A network that returns a curve, which reveals the order of a sampler."""
    return torch.sin(2 * x) + x * sigma


START = torch.linspace(-3, 3, 32)


def sampled(sampler, sigmas: list[float]) -> list[float]:
    """The end of k-diffusion's sampler; a model there returns the image."""
    model = lambda x, sigma: x - sigma[:, None] * velocity(x, sigma[:, None])  # noqa: E731
    return sampler(model, START[None], torch.tensor(sigmas), disable=True)[0].tolist()


def walked(scheduler, generator: torch.Generator | None = None) -> list[float]:
    """The end of diffusers' scheduler."""
    x, options = START.clone(), {} if generator is None else {"generator": generator}
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t / 1000), t, x, **options).prev_sample
    return x.tolist()


def walks() -> list[dict]:
    cases = []
    for steps in (1, 2, 4, 12):
        euler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
        euler.set_timesteps(steps)
        samplers = {"euler": sample_euler, "dpmpp_2m": sample_dpmpp_2m, "heun": sample_heun}
        for name, sampler in samplers.items():
            for schedule, sigmas in {"normal": euler.sigmas.tolist(), "simple": [*simple(steps, SHIFT), 0.0]}.items():
                cases.append({"by": "k-diffusion", "sampler": name, "schedule": schedule, "steps": steps, "end": sampled(sampler, sigmas)})
        heun = FlowMatchHeunDiscreteScheduler(shift=SHIFT)
        heun.set_timesteps(steps)
        cases.append({"by": "diffusers", "sampler": "heun", "schedule": "normal", "steps": steps, "end": walked(heun)})
        for scheduler in (FlowMatchLCMScheduler(shift=SHIFT), FlowMatchEulerDiscreteScheduler(shift=SHIFT, stochastic_sampling=True)):
            scheduler.set_timesteps(steps)
            generator = torch.Generator("cpu").manual_seed(7)
            torch.randn(START.shape, generator=generator)  # the first noise
            end = walked(scheduler, generator)
            cases.append({"by": "diffusers", "sampler": "lcm", "schedule": "normal", "steps": steps, "end": end})
    return cases


def main(out: Path) -> None:
    golden = {
        "script": "test/golden/scripts/samplers.py",
        "versions": {
            "diffusers": diffusers.__version__, "torch": torch.__version__, "numpy": numpy.__version__,
            "scipy": scipy.__version__, "k-diffusion": importlib.metadata.version("k-diffusion"),
        },
        "schedules": schedules(), "custom": custom(), "spacings": spacings(), "start": START.tolist(), "walks": walks(),
    }
    out.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
