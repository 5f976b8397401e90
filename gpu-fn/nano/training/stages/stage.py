"""The training loop of all stages: optimizer, learning rate schedule, averaged weights, resumption from saved state, and data parallelism."""

import argparse
import atexit
import math
import os
import time

import torch
import torch.distributed as dist
from torch import nn

from ..settings import STATE
from .muon import Muon

WEIGHT_DECAY = 0.01
WORLD, RANK, LOCAL_RANK = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))


def arguments(**defaults: int | float) -> argparse.Namespace:
    """The options of a stage: --steps, --minutes (of this piece), --budget (seconds of all pieces; 0: no limit), --save-every (seconds), --batch, --seed, --workers, and its own."""
    parser = argparse.ArgumentParser()
    cores = (os.cpu_count() or 2) // WORLD
    common = {"steps": 1000, "minutes": 9.0, "budget": 0.0, "save_every": 120.0, "batch": 64, "seed": 0, "workers": min(12, cores - 1)}
    for name, value in (common | defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    if options.batch % WORLD:
        parser.error(f"--batch {options.batch} must be divisible by the {WORLD} processes")
    return options


def device() -> str:
    """The device of this process; joins the process group of `torchrun`."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    if WORLD > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(dist.destroy_process_group)
    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(LOCAL_RANK)
    return f"cuda:{LOCAL_RANK}"


def join_gradients(parameters: list[nn.Parameter]) -> torch.Tensor:
    """One zeroed buffer with the gradients of all parameters as its views, in the memory format of each."""
    total = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    for p, part in zip(parameters, total.split([p.numel() for p in parameters])):
        p.grad = part.as_strided(p.shape, p.stride(), part.storage_offset())
    return total


def autocast() -> torch.autocast:
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)


def optimizers(network: nn.Module, parameters: list[nn.Parameter], rate: float, betas: tuple, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW; with `muon`, Muon for the matrices of the blocks."""
    linear = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    inner = {id(p) for name, p in network.named_parameters() if "block" in name or ".layers." in name} & linear if muon else set()
    matrices, others = ([p for p in parameters if id(p) not in inner and (p.ndim > 1) == many] for many in (True, False))
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=rate, betas=betas, fused=torch.cuda.is_available())
    return [adamw, Muon([p for p in parameters if id(p) in inner], rate, WEIGHT_DECAY)] if muon else [adamw]


def write_state(name: str, state: dict) -> None:
    """Replaces STATE/name.pt at once, so that an interruption leaves the previous one."""
    STATE.mkdir(parents=True, exist_ok=True)
    partial = STATE / f"{name}.partial"
    torch.save(state, partial)
    partial.rename(STATE / f"{name}.pt")


def save_weights(name: str, weights: dict[str, torch.Tensor], step: int = 0, seconds: float = 0.0, **extra: float) -> None:
    """Writes a state from which a stage continues with these weights and new optimizers."""
    write_state(name, {"network": weights, "average": weights, "step": step, "seconds": seconds, **extra})


class Stage:
    """Trains `network` for `steps` in total. `average` is the exponential moving average of its weights, which is exported."""

    def __init__(self, name: str, network: nn.Module, options: argparse.Namespace, rate: float, decay: float, betas=(0.9, 0.99), muon=False):
        self.name, self.network, self.options, self.rate, self.decay = name, network, options, rate, decay
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.gradients = join_gradients(self.parameters)
        self.optimizers = optimizers(network, self.parameters, rate, betas, muon)
        live = network.state_dict()
        self.average = {key: value.detach().clone() for key, value in live.items()}
        self.pairs = [(self.average[key], value) for key, value in live.items() if value.is_floating_point()]
        self.step, self.seconds, self.started, self.now, self.losses = 0, 0.0, time.monotonic(), 0.0, {}
        self.reported, self.saved = 0, 0.0
        self.path = STATE / f"{name}.pt"
        if self.path.exists():
            self.resume(torch.load(self.path, map_location="cpu", weights_only=True))

    def resume(self, saved: dict) -> None:
        self.network.load_state_dict(saved["network"])
        for key, value in saved["average"].items():
            self.average[key].copy_(value)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.reported = self.step
        for optimizer, state in zip(self.optimizers, saved.get("optimizers", [])):
            optimizer.load_state_dict(state)
        print(f"{self.name}: resumes at step {self.step}", flush=True)

    def running(self) -> bool:
        """Whether another step fits; all processes use the clock of the first."""
        self.now = time.monotonic() - self.started
        if WORLD > 1:
            shared = torch.tensor(self.now, dtype=torch.float64)
            dist.broadcast(shared, 0)
            self.now = float(shared)
        return not self.finished and self.now < self.options.minutes * 60

    @property
    def finished(self) -> bool:
        return self.progress() >= 1

    def elapsed(self) -> float:
        """Total seconds over all pieces, as of the last call of `running`."""
        return self.seconds + self.now

    def progress(self) -> float:
        """Progress of the stage: the larger of its step and time fractions."""
        spent = self.elapsed() / self.options.budget if self.options.budget else 0.0
        return max(self.step / self.options.steps, spent)

    def learning_rate(self) -> float:
        """A linear warm-up over 200 steps, then half a cosine down to a hundredth."""
        return self.rate * min(1, (self.step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1, self.progress()))))

    def update(self, loss: torch.Tensor, **report: torch.Tensor) -> None:
        """One step of the optimizers. A loss without a graph means that its gradients have already been computed."""
        if loss.requires_grad:
            loss.backward()
        if WORLD > 1:
            dist.all_reduce(self.gradients)
            self.gradients /= WORLD
        self.gradients *= (1 / (torch.linalg.vector_norm(self.gradients) + 1e-6)).clamp(max=1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
        self.gradients.zero_()
        decay = min(self.decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(*map(list, zip(*self.pairs)), 1 - decay)
        self.step += 1
        for key, value in {"loss": loss, **report}.items():
            self.losses[key] = self.losses.get(key, 0) + value.detach()
        if self.step % 200 == 0 or self.step in (1, 20, 50):
            self.report()
        if self.now - self.saved > self.options.save_every:
            self.saved = self.now
            self.save()

    def report(self) -> None:
        """Prints the means since the last report, of this process alone."""
        elapsed = time.monotonic() - self.started
        count = self.step - self.reported
        figures = "  ".join(f"{key} {float(value) / count:.5f}" for key, value in self.losses.items())
        if RANK == 0:
            print(f"{self.name}: step {self.step}/{self.options.steps}  {figures}  {elapsed:.0f} s", flush=True)
        self.losses, self.reported = {}, self.step

    def save_copy(self, name: str) -> None:
        """Saves the averaged weights under another name, without optimizer states."""
        if RANK == 0:
            save_weights(name, self.average, self.step, self.elapsed())

    def save(self, **extra: object) -> None:
        """Saves the averaged weights as `average`, and with `optimizers` the state for an exact resumption."""
        if RANK > 0:
            return
        seconds = self.elapsed()
        saved = {"network": self.network.state_dict(), "average": self.average, "step": self.step, "seconds": seconds, **extra}
        if not self.finished:
            saved["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        write_state(self.name, saved)
        print(f"{self.name}: saved at step {self.step}, {seconds:.0f} s in all", flush=True)
