"""Channels with a system of their own each: our S4D layer, and the layer as its paper computes it."""

from collections.abc import Callable

import torch
from torch import Tensor

from compressm.bench.cases import ChannelsCase
from compressm.bench.contender import Arrays, Contender, as_arrays
from compressm.bench.selective import forward_backward
from compressm.bench.timing import Step
from compressm.layers import S4D


class OurChannels(Contender[ChannelsCase]):
    """:class:`compressm.layers.S4D`."""

    name = "compressm"

    def step(self, case: ChannelsCase) -> Step:
        """Outputs, and gradients of inputs and parameters."""
        return self._run(case)[1]

    def outputs(self, case: ChannelsCase) -> Arrays:
        """Outputs, and gradients of inputs and parameters."""
        names, run = self._run(case)
        return as_arrays(["y", *names], run())

    def operation(self, layer: S4D, u: Tensor) -> Tensor:
        """The layer's outputs."""
        return layer(u)[0]

    def _run(self, case: ChannelsCase) -> tuple[list[str], Callable[[], list[Tensor]]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = S4D(case.channels, case.N, spectrum="lin").to(self.settings.device)
            u = torch.randn(case.batch, case.L, case.channels).to(self.settings.device).requires_grad_()
        parameters = dict(layer.named_parameters())
        run = forward_backward(lambda u, *_: self.operation(layer, u), [u, *parameters.values()])
        return ["u", *parameters], run


class FourierChannels(OurChannels):
    """S4D in plain PyTorch: the kernel as a Vandermonde product of complex states, and a long convolution."""

    name = "S4D's kernel and FFT (PyTorch)"

    def operation(self, layer: S4D, u: Tensor) -> Tensor:
        """Zero-order hold, the kernel as a sum over states (S4D, section 3.3), products of spectra."""
        L = u.shape[1]
        A = torch.complex(-torch.exp(layer.log_A_real), layer.A_imag)
        exponent = A * torch.exp(layer.log_dt)[:, None]
        C = torch.complex(layer.C[0], layer.C[1]) * (torch.exp(exponent) - 1) / A
        powers = torch.exp(exponent[..., None] * torch.arange(L, device=u.device))
        kernel = 2 * torch.einsum("hn,hnl->lh", C, powers).real
        spectrum = torch.fft.rfft(u, 2 * L, dim=1) * torch.fft.rfft(kernel, 2 * L, dim=0)
        y: Tensor = torch.fft.irfft(spectrum, 2 * L, dim=1)
        return y[:, :L] + layer.D * u
