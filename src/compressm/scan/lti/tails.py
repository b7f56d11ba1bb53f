"""What a convolution leaves out: the outputs of an initial state, and the final state.

Both split time as the impulse response does (``k = a m + b``), so that they are matrix products, too.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from compressm.scan.lti.impulse import Powers, left_factors, pull_left, pull_right, right_factors


def state_response(state: Tensor, C: Tensor, powers: Powers, length: int) -> Tensor:
    """``Re(C lambda^{k+1} x)`` for k = 0 .. L - 1 and each state x of the batch: (batch, L, P)."""
    (batch, P), (count, step) = (state.shape[0], C.shape[1]), (powers.coarse.shape[0], powers.fine.shape[0])
    left = left_factors(C, powers.fine * powers.base)
    right = right_factors(state.permute(1, 2, 0), powers.coarse)
    response = (right @ left.T).view(count, batch, step, P).transpose(0, 1)
    return response.reshape(batch, count * step, P)[:, :length]


def pull_state_response(grad: Tensor, state: Tensor, C: Tensor, powers: Powers) -> dict[str, Tensor]:
    """Gradients of the state, C and lambda (complex) from that of :func:`state_response`."""
    (batch, length, P), (count, step) = grad.shape, (powers.coarse.shape[0], powers.fine.shape[0])
    padded = pad(grad, (0, 0, 0, count * step - length))
    product = padded.view(batch, count, step, P).transpose(0, 1).reshape(count * batch, step * P)
    fine, coarse = powers.slopes()
    shifted, state_first = powers.fine * powers.base, state.permute(1, 2, 0)
    left, right = left_factors(C, shifted), right_factors(state_first, powers.coarse)
    slope = powers.fine + powers.base * fine
    grad_C, lam_left = pull_left(product.T @ right, C, shifted, slope)
    grad_state, lam_right = pull_right(product @ left, state_first, powers.coarse, coarse)
    return {"C": grad_C, "state": grad_state.T, "lam": lam_left + lam_right}


def final_state(u: Tensor, state: Tensor | None, B: Tensor, powers: Powers, *, reverse: bool) -> Tensor:
    """``lambda^L x + sum_j lambda^{L-1-j} B u_j``: (batch, 2, N)."""
    blocks, right = _blocks(u, B, powers, reverse=reverse)
    inner = _complex_pairs((blocks.flatten(0, 1) @ right).view(*blocks.shape[:2], -1))
    coarse = _towards_end(powers.coarse, reverse=reverse)
    final = (inner * coarse.to(inner.dtype)).sum(1).to(torch.complex128)
    if state is not None:
        final = final + powers.power(u.shape[1]) * torch.complex(state[:, 0].double(), state[:, 1].double())
    return torch.stack((final.real, final.imag), dim=1).to(u.dtype)


def pull_final_state(
    grad: Tensor, u: Tensor, state: Tensor | None, B: Tensor, powers: Powers, *, reverse: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradient of u, and those of B, lambda and the state (complex), from that of :func:`final_state`."""
    g = torch.complex(grad[:, 0].double(), grad[:, 1].double())
    (batch, length, H), N = u.shape, g.shape[1]
    blocks, right = _blocks(u, B, powers, reverse=reverse)
    inner = _complex_pairs((blocks.flatten(0, 1) @ right).view(*blocks.shape[:2], -1))
    fine, coarse = powers.slopes()
    grad_inner = g[:, None] * _towards_end(powers.coarse, reverse=reverse).conj()
    grad_rows = torch.cat((grad_inner.real, grad_inner.imag), dim=-1).flatten(0, 1).to(u.dtype)
    grad_right = (grad_rows.T @ blocks.flatten(0, 1)).T.reshape(powers.fine.shape[0], H, 2 * N)
    grad_right = grad_right if reverse else grad_right.flip(0)
    grad_B, lam_right = pull_right(grad_right.flatten(0, 1), B, powers.fine, fine)
    slope = _towards_end(coarse, reverse=reverse)
    grads = {"B": grad_B, "lam": lam_right + _inner_product(inner, slope, g)}
    if state is not None:
        x = torch.complex(state[:, 0].double(), state[:, 1].double())
        grads["state"] = g * powers.power(length).conj()
        grads["lam"] = grads["lam"] + (g * (length * powers.power(length - 1) * x).conj()).sum(0)
    grad_u = (grad_rows @ right.T).view(batch, -1, H)
    return (grad_u[:, :length] if reverse else grad_u[:, -length:]), grads


def _blocks(u: Tensor, B: Tensor, powers: Powers, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Inputs in blocks of m steps, (batch, count, m H), and the (m H, 2 N) that sums a block at its end."""
    (batch, length, H), (count, step) = u.shape, (powers.coarse.shape[0], powers.fine.shape[0])
    missing = count * step - length
    padded = pad(u, (0, 0, 0, missing) if reverse else (0, 0, missing, 0))
    fine = _towards_end(powers.fine, reverse=reverse)
    return padded.view(batch, count, step * H), right_factors(B, fine)


def _towards_end(powers: Tensor, *, reverse: bool) -> Tensor:
    """Powers in the order of time: the highest belongs to the step furthest from the end."""
    return powers if reverse else powers.flip(0)


def _complex_pairs(rows: Tensor) -> Tensor:
    N = rows.shape[-1] // 2
    return torch.complex(rows[..., :N], rows[..., N:])


def _inner_product(inner: Tensor, slope: Tensor, g: Tensor) -> Tensor:
    """``sum_{b,a} conj(inner slope) g`` for each state, (N,)."""
    return ((inner * slope.to(inner.dtype)).sum(1).conj() * g).sum(0)
