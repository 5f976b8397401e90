"""Stage 1: the autoencoder, on rendered scenes.

    python -m training.stages.vae --steps 4500

Most scenes are crowded, so that few pixels belong to a plain background. L1 on pixels and on their differences, a light KL term, and noise
on the decoder's input latents, so that it is robust to small errors of a denoiser. Latents are standardized afterwards: diffusers'
`scaling_factor` and `shift_factor`.
"""

import torch

from ..models.networks import vae
from ..scenes.render import Renderer
from .batches import batches
from .stage import Stage, arguments, autocast, device

KL_WEIGHT = 1e-4
GRADIENT_WEIGHT = 0.5
LATENT_NOISE = 0.2  # maximum, relative to the latents' standard deviation


def differences(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return image.diff(dim=-1), image.diff(dim=-2)


def loss_of(network, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    posterior = network.encode(image).latent_dist
    latent = posterior.sample()
    amount = LATENT_NOISE * latent.detach().std() * torch.rand(len(latent), 1, 1, 1, device=latent.device)
    decoded = network.decode(latent + amount * torch.randn_like(latent), return_dict=False)[0].float()
    pixels = (decoded - image).abs().mean()
    edges = sum((a - b).abs().mean() for a, b in zip(differences(decoded), differences(image)))
    kl = posterior.kl().mean() / latent[0].numel()
    return pixels + GRADIENT_WEIGHT * edges + KL_WEIGHT * kl, pixels


@torch.no_grad()
def statistics(network, renderer: Renderer, stream, count: int) -> dict[str, float]:
    """Mean and standard deviation of latents, and the PSNR of reconstructions in dB."""
    latents, errors = [], []
    for _ in range(count):
        image = renderer(next(stream))
        latent = network.encode(image).latent_dist.mode()
        decoded = network.decode(latent, return_dict=False)[0].clamp(-1, 1)
        latents.append(latent.float())
        errors.append(((decoded - image) / 2).square().mean((1, 2, 3)))
    latents = torch.cat(latents)
    psnr = float(-10 * torch.cat(errors).log10().mean())
    return {"scaling_factor": float(1 / latents.std()), "shift_factor": float(latents.mean()), "psnr": psnr}


def main() -> None:
    options = arguments(steps=4500, batch=64, rate=1e-3, compiled=1, checked=8)
    torch.manual_seed(options.seed)
    on = device()
    network = vae().to(on, memory_format=torch.channels_last)
    stage = Stage("vae", network, options, rate=options.rate, decay=0.999)
    renderer, stream = Renderer(on), batches(options.seed + 1 + stage.step, options.batch, options.workers, dense=0.7)
    compiled = torch.compile(loss_of, dynamic=False) if on != "cpu" and options.compiled else loss_of
    while stage.running():
        image = renderer(next(stream)).contiguous(memory_format=torch.channels_last)
        with autocast():
            loss, pixels = compiled(network, image)
        stage.update(loss, pixels=pixels)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(stage.average)
    figures = statistics(network, renderer, batches(options.seed, 64, 1), options.checked)
    network.load_state_dict(weights)
    print(figures)
    stage.save(**figures)


if __name__ == "__main__":
    main()
