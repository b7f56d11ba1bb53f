"""Drawing the next token from logits."""

import torch
from torch import Tensor


def check_sampling(max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    """Refuse settings that no token can be drawn with.

    Raises:
        ValueError: Naming the argument and its value.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 0")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; it must be finite and at least 0 (0: the likeliest)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1, or None for all tokens")


def draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """Draw a token for each row of ``logits`` ``(batch, V)``; returns ``(batch,)``.

    Args:
        logits: Unnormalised log probabilities.
        temperature: Divides the logits; at 0 the likeliest token is taken and nothing is drawn.
        top_k: Draw among so many of the likeliest tokens; among all if None or above ``V``.
        generator: Source of randomness; the default one if None.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    kept = logits.shape[-1] if top_k is None else min(top_k, logits.shape[-1])
    values, tokens = logits.float().topk(kept, dim=-1)
    # Shifted first: a tiny temperature must not overflow the quotient.
    weights = torch.softmax((values - values[:, :1]) / temperature, dim=-1)
    choice = torch.multinomial(weights, 1, generator=generator)
    return tokens.gather(-1, choice).squeeze(-1)
