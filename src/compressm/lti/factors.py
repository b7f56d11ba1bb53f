"""Gramian factors ``P = R R^H`` straight from ``(Lambda, B)``: the Gramian itself is never formed.

Row ``i`` of the system is the function ``b_i / (1 - l_i z)``, and the Gramian holds the inner products of
these functions.  The columns of ``R`` are their coordinates in an orthonormal basis that is built pole by
pole (:mod:`compressm.lti.pivots`).  The basis is orthonormal by its form, whatever rounding did to the
directions, so each row of ``R`` is accurate relative to its own length: badly scaled rows of ``B`` cost
nothing, and small Hankel singular values keep the digits that a Cholesky factorisation of a numerically
singular ``P`` loses.
"""

from __future__ import annotations

import numpy as np

from compressm.lti.arithmetic import Array, ComplexArray, product, thin_qr
from compressm.lti.pivots import ComplexPole, ConjugatePair, Pivot, Spectrum

PANEL = 48


def gramian_factor(spectrum: Spectrum, rows: ComplexArray, *, real: bool) -> ComplexArray:
    """Coordinates of ``b_i / (1 - l_i z)`` in an orthonormal basis.

    Args:
        spectrum: The eigenvalues ``l``.
        rows: ``B``, shape ``(N, H)``.  For the observability Gramian pass ``spectrum.conj()`` and ``C^H``.
        real: Whether to use a real basis of the conjugate-closed system.

    Returns:
        With ``real=False`` a matrix ``R``, ``(N, N)``, with ``R R^H = P``.  With ``real=True`` a complex
        matrix ``(N, 2N)``: ``[Re R; Im R]`` is a factor of the Gramian of the real system in ``(Re x, Im
        x)``.
    """
    kind: type[Pivot] = ConjugatePair if real else ComplexPole
    # Rotating the columns until there are no more of them than (real) rows leaves the Gramian alone, and
    # Householder QR of the transpose is accurate column by column: for each row by itself.
    remaining = _row_space(rows, real=real)[0]
    count, width = rows.shape[0], kind.width
    factor = np.zeros((count, width * count), dtype=np.complex128)
    for start in range(0, count, PANEL):
        stop = min(start + PANEL, count)
        panel = factor[:, width * start : width * stop]
        done = _eliminate_panel(kind, spectrum, remaining, start, panel[start:stop])
        if stop < count:
            _eliminate_below(done, spectrum, remaining[stop:], slice(stop, count), panel[stop:])
    return factor


def _eliminate_panel(
    kind: type[Pivot], spectrum: Spectrum, remaining: ComplexArray, start: int, panel: ComplexArray
) -> tuple[Array, Array, list[Pivot | None]]:
    """Eliminate the rows of one panel one after the other, and fill their square part of the factor.

    Works in the panel's own row space, of at most ``2 * PANEL`` dimensions instead of ``H``.

    Returns:
        All directions ``(H, w n)``, all updates ``(w n, H)`` and the pivots, None where nothing was left of a
        row.
    """
    width, size = kind.width, panel.shape[0]
    rows, frame = _row_space(remaining[start : start + size], real=kind is ConjugatePair)
    local = rows.shape[1]
    directions: Array = np.zeros((local, width * size), dtype=kind.dtype)
    updates: Array = np.zeros((width * size, local), dtype=kind.dtype)
    pivots: list[Pivot | None] = [None] * size
    for step in range(size):
        if not rows[step].any():
            continue
        pivot = pivots[step] = kind(spectrum, start + step, rows[step])
        here, below = slice(width * step, width * (step + 1)), slice(start + step, start + size)
        panel[step:, here] = pivot.coordinates(rows[step:] @ pivot.directions, below)
        rows[step:] -= (spectrum.one_minus[below, None] * panel[step:, here]) @ pivot.update
        directions[:, here], updates[here] = pivot.directions, pivot.update
    if frame is not None:
        directions, updates = product(frame, directions), product(updates, frame.conj().T)
    return directions, updates, pivots


def _eliminate_below(
    done: tuple[Array, Array, list[Pivot | None]],
    spectrum: Spectrum,
    below: ComplexArray,
    rows: slice,
    panel: ComplexArray,
) -> None:
    """Apply a finished panel to the rows under it: matrix products and a small forward substitution."""
    directions, updates, pivots = done
    inner, overlap = product(below, directions), product(updates, directions)
    one_minus = spectrum.one_minus[rows, None]
    for step, pivot in enumerate(pivots):
        if pivot is not None:
            here, before = slice(pivot.width * step, pivot.width * (step + 1)), slice(0, pivot.width * step)
            current = inner[:, here] - one_minus * (panel[:, before] @ overlap[before, here])
            panel[:, here] = pivot.coordinates(current, rows)
    below -= one_minus * product(panel, updates)


def _row_space(rows: ComplexArray, *, real: bool) -> tuple[ComplexArray, Array | None]:
    """Return ``(small, frame)`` with ``rows = small @ frame^H`` and orthonormal ``frame``, real if ``real``.

    ``frame`` is None, and ``small`` a copy, where there are no more columns than (real) rows.
    """
    count, inputs = rows.shape
    if real and inputs > 2 * count:
        frame, upper = thin_qr(np.concatenate([rows.real, rows.imag]).T)
        small: ComplexArray = upper.T[:count] + 1j * upper.T[count:]
        return small, frame
    if not real and inputs > count:
        frame, upper = thin_qr(rows.conj().T)
        small = upper.conj().T.copy()
        return small, frame
    return rows.copy(), None
