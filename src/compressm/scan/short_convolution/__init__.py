"""Short causal convolutions, one filter for each channel, with bias and SiLU, as recurrences stand behind.

``reference`` is the ground truth, on any device. ``cpu`` is the fast form: two kernels, written with the
vectors of the selective scan and with ``strips``. ``triton`` (with ``triton_kernels``) is that of CUDA
devices. ``ops`` makes it an operator of PyTorch.
"""

from torch import Tensor

from compressm.scan.short_convolution.arguments import FORMS, check_form, check_operands, served
from compressm.scan.short_convolution.ops import short_convolution_op
from compressm.scan.short_convolution.reference import reference_convolution


def short_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    window: Tensor | None = None,
    *,
    silu: bool = False,
    form: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""``y_t[c] = act(bias[c] + sum_j weight[c, 0, j] x_{t - K + 1 + j}[c])`` over a batch.

    The depthwise convolution in front of Mamba's recurrence (Gu and Dao 2023, section 3.4) and of DeltaNet's.
    Time comes before channels, as linear layers have it. Differentiable once by every operand, through
    outputs and final window.

    Args:
        x: inputs, (batch, L, channels), any real floating type. The last axis should be contiguous; rows may
            be parts of longer ones, such as a slice of a projection, which is read where it lies.
        weight: filters, (channels, 1, K), as ``torch.nn.Conv1d`` has them with one group for each channel.
        bias: (channels,).
        window: the last K - 1 inputs before the first, (batch, channels, K - 1); zero if None.
        silu: whether ``act`` is SiLU, ``a sigmoid(a)``, or nothing.
        form: "kernel" runs compiled kernels (float32 or bfloat16 on a CPU, or on a CUDA device where Triton
            is installed; sums in float32), which keep nothing but their operands for the backward pass,
            "reference" is plain PyTorch, "auto" takes "kernel" where it serves and there is more than one
            step: a stream has no passes over memory to save, and is exported as it is.

    Returns:
        Outputs, (batch, L, channels), and the last K - 1 inputs, (batch, channels, K - 1).

    Raises:
        TypeError: an operand's dtype does not fit.
        ValueError: a shape or device does not fit, or ``form`` is unknown or does not serve the operands.
    """
    check_operands(x, weight, bias, window)
    check_form(form, x)
    if form == "kernel" or (form == "auto" and x.shape[1] > 1 and served(x)):
        y, final = short_convolution_op(x, weight, bias, window, silu)
        return y, final
    return reference_convolution(x, weight, bias, window, silu=silu)


__all__ = ["FORMS", "short_convolution"]
