"""The system every other file here speaks of: a diagonal state, a linear map in and a linear map out."""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.lti import gramians, hankel, norms, response
from compressm.lti.arithmetic import complex_exp, complex_log
from compressm.lti.realization import Realization


class DiagonalSystem:
    """A diagonal linear time-invariant system with complex states and a real output.

    ``x_k = diag(A) x_{k-1} + B u_k`` and ``y_k = Re(C x_k) + D u_k``: the output sees the *updated* state, so
    the first sample of the impulse response is ``Re(C B) + D``.  Tensors of any dtype and device come in;
    float64 and complex128 on the CPU are kept and come out.  Instances do not change after construction.

    Args:
        A: Eigenvalues, shape ``(N,)``, inside the unit circle.  None when ``log_A`` is given.
        B: Input matrix, shape ``(N, H)``, real or complex.
        C: Output matrix, shape ``(P, N)``, real or complex.
        D: Direct term, shape ``(P, H)``, or ``(P,)`` for an elementwise one (then ``P == H``), or None for
            zero.
        log_A: Logarithms of the eigenvalues, shape ``(N,)``.  Preferred where a layer has them: ``1 - |l|^2``
            then keeps its digits for states that hardly decay.  An imaginary part of exactly 0 or pi means a
            real eigenvalue.

    Attributes:
        A: complex128 ``(N,)``.
        log_A: complex128 ``(N,)``.
        B: complex128 ``(N, H)``.
        C: complex128 ``(P, N)``.
        D: float64 ``(P, H)`` or ``(P,)``, or None.

    Raises:
        TypeError: If something else than a tensor is given, or not exactly one of ``A`` and ``log_A``.
        ValueError: If shapes disagree, a value is not finite, or an eigenvalue is not inside the unit circle.
    """

    A: Tensor
    log_A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None

    def __init__(
        self, A: Tensor | None, B: Tensor, C: Tensor, D: Tensor | None = None, *, log_A: Tensor | None = None
    ) -> None:
        if (A is None) == (log_A is None):
            given = "neither" if A is None else "both"
            raise TypeError(f"DiagonalSystem: exactly one of A and log_A must be given, got {given}")
        if log_A is not None:
            self.log_A = _complex("log_A", log_A, ndim=1, minus_infinity=True)
            self.A = torch.from_numpy(complex_exp(self.log_A.numpy()))
        elif A is not None:
            self.A = _complex("A", A, ndim=1)
            self.log_A = torch.from_numpy(complex_log(self.A.numpy()))
        self.B = _complex("B", B, ndim=2)
        self.C = _complex("C", C, ndim=2)
        self.D = None if D is None else _direct_term(D)
        self._check_shapes()
        self._check_stability()

    @property
    def state_dim(self) -> int:
        """Number of complex states, ``N``."""
        return self.A.shape[0]

    @property
    def input_dim(self) -> int:
        """Number of inputs, ``H``."""
        return self.B.shape[1]

    @property
    def output_dim(self) -> int:
        """Number of outputs, ``P``."""
        return self.C.shape[0]

    def direct_matrix(self) -> Tensor:
        """D as a full float64 matrix, shape ``(P, H)``; zeros when there is none."""
        if self.D is None:
            return torch.zeros(self.output_dim, self.input_dim, dtype=torch.float64)
        return torch.diag(self.D) if self.D.ndim == 1 else self.D

    def controllability_gramian(self) -> Tensor:
        """``P = sum_k A^k B B^H A^{kH}`` of the complex system, complex128 ``(N, N)``."""
        return gramians.controllability_gramian(self)

    def observability_gramian(self) -> Tensor:
        """``Q = sum_k A^{kH} C^H C A^k`` of the complex system, complex128 ``(N, N)``."""
        return gramians.observability_gramian(self)

    def hankel_singular_values(self, realization: Realization = "real") -> Tensor:
        """Hankel singular values, descending, float64.

        Args:
            realization: ``"real"``: the ``2N`` values of the map in use, ``u -> Re(C x)``; ``"complex"``: the
                ``N`` values of ``u -> C x``, the published form (arXiv 2510.02823).

        Raises:
            ValueError: If ``realization`` is neither.
        """
        return hankel.hankel_singular_values(self, realization)

    def impulse_response(self, length: int) -> Tensor:
        """First samples of the real impulse response, float64 ``(length, P, H)``; ``D`` is in the first.

        Raises:
            ValueError: If ``length`` is not positive.
        """
        return response.impulse_response(self, length)

    def frequency_response(self, omega: Tensor) -> Tensor:
        """Transfer function of the real map at frequencies ``omega`` ``(F,)``; complex128 ``(F, P, H)``."""
        return response.frequency_response(self, omega)

    def h2_norm(self) -> float:
        """Square root of the energy of the real impulse response, ``D`` included."""
        return norms.h2_norm(self)

    def hinf_norm(self) -> float:
        """Largest gain of the real map over all frequencies; see :func:`compressm.lti.hinf_norm`."""
        return norms.hinf_norm(self)

    def __sub__(self, other: DiagonalSystem) -> DiagonalSystem:
        """The error system ``self - other``: both states side by side, outputs subtracted."""
        if not isinstance(other, DiagonalSystem):
            return NotImplemented
        if (self.output_dim, self.input_dim) != (other.output_dim, other.input_dim):
            raise ValueError(
                "the difference of two systems needs equal outputs and inputs, got (P, H) = "
                f"{(self.output_dim, self.input_dim)} and {(other.output_dim, other.input_dim)}"
            )
        difference = None
        if self.D is not None or other.D is not None:
            difference = self.direct_matrix() - other.direct_matrix()
        return DiagonalSystem(
            None,
            torch.cat([self.B, other.B]),
            torch.cat([self.C, -other.C], dim=1),
            difference,
            log_A=torch.cat([self.log_A, other.log_A]),
        )

    def __repr__(self) -> str:
        sizes = f"state_dim={self.state_dim}, input_dim={self.input_dim}, output_dim={self.output_dim}"
        return f"DiagonalSystem({sizes})"

    def _check_shapes(self) -> None:
        N, H, P = self.state_dim, self.input_dim, self.output_dim
        if min(N, H, P) < 1:
            raise ValueError(
                f"DiagonalSystem: needs at least one state, input and output, got N={N}, H={H}, P={P}"
            )
        if self.B.shape[0] != N:
            raise ValueError(
                f"DiagonalSystem: A has {N} states, so B must be ({N}, H), got {tuple(self.B.shape)}"
            )
        if self.C.shape[1] != N:
            raise ValueError(
                f"DiagonalSystem: A has {N} states, so C must be (P, {N}), got {tuple(self.C.shape)}"
            )
        if self.D is None:
            return
        if self.D.ndim == 1 and (P != H or self.D.shape[0] != P):
            raise ValueError(
                f"DiagonalSystem: an elementwise D needs as many outputs as inputs and one value each, got D "
                f"{tuple(self.D.shape)} with P={P}, H={H}"
            )
        if self.D.ndim == 2 and self.D.shape != (P, H):
            raise ValueError(f"DiagonalSystem: D must be ({P}, {H}) or ({P},), got {tuple(self.D.shape)}")

    def _check_stability(self) -> None:
        unstable = torch.nonzero(self.log_A.real >= 0.0).flatten()
        if len(unstable):
            index = int(unstable[0])
            raise ValueError(
                f"DiagonalSystem: unstable, {len(unstable)} of {self.state_dim} eigenvalues are not inside "
                f"the unit circle; the first is A[{index}] = {complex(self.A[index]):.17g} with log|A| = "
                f"{float(self.log_A[index].real):.3g} (Gramians need |A| < 1; pass log_A if |A| rounds to 1)"
            )


def _complex(name: str, value: Tensor, *, ndim: int, minus_infinity: bool = False) -> Tensor:
    """A complex128 copy on the CPU, checked."""
    tensor = _checked(name, value)
    if tensor.ndim != ndim:
        raise ValueError(
            f"DiagonalSystem: {name} must have {ndim} dimension(s), got shape {tuple(tensor.shape)}"
        )
    tensor = tensor.to(torch.complex128)
    if _finite(torch.view_as_real(tensor)):
        return tensor
    bad = ~(torch.isfinite(tensor.real) & torch.isfinite(tensor.imag))
    if minus_infinity:  # the logarithm of an eigenvalue 0
        bad &= ~(torch.isneginf(tensor.real) & torch.isfinite(tensor.imag))
    _refuse(name, tensor, bad)
    return tensor


def _direct_term(value: Tensor) -> Tensor:
    tensor = _checked("D", value)
    if tensor.is_complex():
        raise TypeError("DiagonalSystem: D must be real, because the output is; got a complex tensor")
    if tensor.ndim not in (1, 2):
        raise ValueError(f"DiagonalSystem: D must be (P, H) or (P,), got shape {tuple(tensor.shape)}")
    tensor = tensor.to(torch.float64)
    if not _finite(tensor):
        _refuse("D", tensor, ~torch.isfinite(tensor))
    return tensor


def _checked(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"DiagonalSystem: {name} must be a torch.Tensor, got {type(value).__name__}")
    return value.detach().cpu().clone()


def _finite(tensor: Tensor) -> bool:
    """Whether everything is; many times faster than to ask where it is not."""
    return tensor.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(tensor))).all())


def _refuse(name: str, tensor: Tensor, bad: Tensor) -> None:
    if bad.any():
        where = tuple(int(i) for i in torch.nonzero(bad)[0])
        raise ValueError(
            f"DiagonalSystem: {name} holds {int(bad.sum())} value(s) that are not finite; the first is "
            f"{name}{list(where)} = {tensor[where].item()}"
        )
