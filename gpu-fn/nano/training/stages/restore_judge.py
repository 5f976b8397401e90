"""Initializes the judge's state from the shipped judge.onnx, so that its training can continue.

The export folds each batch normalization into the convolution before it. This has no unique inverse: each normalization is initialized
with the statistics of the folded convolution's output on a batch of renders, and with a scale and an offset that cancel them. The outputs then
equal those of the shipped judge, up to the float16 rounding of its weights.
"""

import numpy as np
import onnx
import torch
from torch import nn

from ..models.networks import NANO
from ..scenes.render import Renderer
from .batches import batches
from .judge import CLASSES, Judge, accuracy
from .stage import save_weights

BATCH = 128


def read_layers(path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weight and bias of every convolution and linear layer, in the order of execution."""
    graph = onnx.load(path).graph
    stored = {each.name.removesuffix(".half"): onnx.numpy_helper.to_array(each) for each in graph.initializer}
    tensor = lambda name: torch.from_numpy(stored[name].astype(np.float32))
    return [(tensor(node.input[1]), tensor(node.input[2])) for node in graph.node if node.op_type in ("Conv", "Gemm")]


@torch.no_grad()
def unfold(judge: Judge, layers: list[tuple[torch.Tensor, torch.Tensor]], image: torch.Tensor) -> None:
    """Sets the judge's parameters layer by layer, during a forward pass on `image` [B, 3, 256, 256] in 0..1."""
    remaining = iter(layers)
    folded: list[torch.Tensor] = []

    def fill(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
            module.weight.copy_((variance + module.eps).sqrt())
            module.bias.copy_(mean + folded.pop())
            return
        weight, bias = next(remaining)
        if weight.shape != module.weight.shape:
            raise ValueError(f"a layer of the shipped judge has shape {[*weight.shape]}, expected {[*module.weight.shape]}")
        module.weight.copy_(weight)
        if module.bias is None:
            folded.append(bias.to(module.weight.device))
        else:
            module.bias.copy_(bias)

    hooks = [module.register_forward_pre_hook(fill) for module in judge.modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]
    judge.eval().maps(image)
    for hook in hooks:
        hook.remove()
    if next(remaining, None) is not None or folded:
        raise ValueError("the shipped judge and Judge have different layers")


def restore_judge(on: str) -> None:
    """Writes judge.pt, unless the shipped judge was trained with a different number of classes."""
    layers = read_layers(NANO / "judge.onnx")
    if CLASSES not in {len(weight) for weight, _ in layers}:
        print("the shipped judge has a different number of classes: its training starts from random weights")
        return
    judge = Judge().to(on)
    renderer, stream = Renderer(on), batches(7, BATCH, 0)
    unfold(judge, layers, (renderer(next(stream)) + 1) / 2)
    save_weights("judge", judge.state_dict())
    if on != "cpu":
        print("accuracy of the restored judge on renders:", accuracy(judge, renderer, stream, 6))
