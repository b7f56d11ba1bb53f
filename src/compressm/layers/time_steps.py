"""How the time steps of selective layers start."""

import math

import torch
from torch import Tensor


def initial_time_step_bias(layer: str, count: int, dt_min: float, dt_max: float) -> Tensor:
    """``count`` biases whose softplus is log-uniform in ``[dt_min, dt_max]`` (Gu and Dao 2023, section 3.6).

    Raises:
        ValueError: If the range is empty or not positive; the message names ``layer``.
    """
    if not 0 < dt_min <= dt_max:
        raise ValueError(f"{layer}: time steps from {dt_min} to {dt_max} must satisfy 0 < dt_min <= dt_max")
    log_dt = math.log(dt_min) + (math.log(dt_max) - math.log(dt_min)) * torch.rand(count)
    dt = torch.exp(log_dt)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus, without overflow for large steps
