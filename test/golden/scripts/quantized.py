"""Rounds a torch model's weights as the tier fp8 of gpu-fn/compile stores them, in place."""
import re

import ml_dtypes
import numpy as np
import torch

# The Linear layers of the joint blocks except adaLN, and those of T5's blocks.
FP8 = re.compile(
    r"transformer_blocks\.\d+\.(attn2?|ff|ff_context)\..*\.?weight$"
    r"|encoder\.block\.\d+\.layer\.\d\.(SelfAttention\.[qkvo]|DenseReluDense\.w\w+)\.weight$"
)


def quantize(model: torch.nn.Module) -> list[str]:
    """Returns the names of the parameters that became FP8. Parameters of one dimension and the position table stay float32."""
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    quantized = []
    for name, value in model.state_dict().items():
        if value.ndim < 2 or name == "pos_embed.pos_embed":
            continue
        if name in linear and FP8.match(name):
            quantized.append(name)
            value.copy_(torch.from_numpy(fp8_rows(value.numpy())))
        else:
            value.copy_(value.half().float())
    return quantized


def fp8_rows(weight: np.ndarray) -> np.ndarray:
    """Float8 E4M3 with one float32 scale per row: the row's largest magnitude becomes 448."""
    largest = np.abs(weight).max(axis=1, keepdims=True)
    scale = np.where(largest == 0, np.float32(1), largest / np.float32(448)).astype(np.float32)
    codes = np.clip(weight / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float32) * scale
