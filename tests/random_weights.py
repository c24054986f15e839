"""Random weights that show errors: fresh models have biases and tables of zero, which hide them."""

from __future__ import annotations

import math

import torch
from torch import nn


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("logit_scale"):
                parameter.copy_(3.5 + 1.5 * noise)  # around log(100), where the clamp is
            elif "bias_table" in name:
                parameter.copy_(noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * noise + (1.0 if "norm" in name and "weight" in name else 0.0))
            else:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter[0].numel()))
    return model.eval()
