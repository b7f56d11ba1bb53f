"""The same classifier in JAX, its recurrence by an associative scan over complex states, jit-compiled.

Written for this comparison in the way the field's JAX code does it: complex64 eigenvalues and states,
``jax.lax.associative_scan`` over time, ``vmap`` over the batch, parameters and moments donated to the step.
"""

import math
import time
from typing import Any

import numpy as np

from compressm.bench.cases import ClassifierCase
from compressm.bench.classifier import LEARNING_RATE, WEIGHT_DECAY, classifier, classifier_batch
from compressm.bench.contender import Arrays, Contender, Settings
from compressm.bench.jax_library import load_jax, missing_jax
from compressm.bench.timing import Step

Tree = dict[str, Any]

MOMENTUM, BETAS, EPSILON = 0.1, (0.9, 0.999), 1e-8


class JaxClassifier(Contender[ClassifierCase]):
    """The JAX classifier as a contender."""

    name = "JAX associative scan"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._executables: dict[ClassifierCase, Any] = {}

    def missing(self) -> str | None:
        """JAX may not be installed."""
        return missing_jax(self.settings.device)

    def load(self, case: ClassifierCase) -> None:
        """Compile the training step for the case's shapes; no array is made."""
        load_jax(self.settings.threads, self.settings.device)
        began = time.perf_counter()
        self._executables[case] = self._compile(case)
        self.compile_seconds = time.perf_counter() - began

    def step(self, case: ClassifierCase) -> Step:
        """A training step on donated buffers."""
        jax = load_jax(self.settings.threads, self.settings.device)
        if case not in self._executables:
            self.load(case)
        compiled = self._executables[case]
        state = jax.tree.map(jax.numpy.asarray, _initial_state(case))
        batch = tuple(map(jax.numpy.asarray, _batch(case)))

        def run() -> None:
            nonlocal state
            state = jax.block_until_ready(compiled(state, *batch))

        return run

    def device_peak(self) -> int:
        """By JAX's own account."""
        jax = load_jax(self.settings.threads, self.settings.device)
        return int(jax.local_devices()[0].memory_stats()["peak_bytes_in_use"])

    def outputs(self, case: ClassifierCase) -> Arrays:
        """Logits and the gradient of every parameter."""
        jax = load_jax(self.settings.threads, self.settings.device)
        state, (inputs, targets) = _initial_state(case), _batch(case)

        def loss_and_logits(parameters: Tree) -> Any:
            logits, _ = _forward(jax, parameters, state["norms"], inputs, case.layers)
            return _cross_entropy(jax, logits, targets), logits

        with jax.default_matmul_precision("highest"):
            gradients, logits = jax.jit(jax.grad(loss_and_logits, has_aux=True))(state["parameters"])
        found = {"logits": logits, **gradients}
        return {name: np.asarray(array, dtype=np.float64) for name, array in found.items()}

    def _compile(self, case: ClassifierCase) -> Any:
        jax = load_jax(self.settings.threads, self.settings.device)

        def train(state: Tree, inputs: Any, targets: Any) -> Tree:
            return _train(jax, case.layers, state, inputs, targets)

        shapes = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype),
            (_initial_state(case), *_batch(case)),
        )
        # On a GPU JAX would take TF32 by itself.
        with jax.default_matmul_precision("tensorfloat32" if self.settings.tf32 else "highest"):
            return jax.jit(train, donate_argnums=0).lower(*shapes).compile()


def _initial_state(case: ClassifierCase) -> Tree:
    """Parameters of our model, moments of AdamW, running statistics of the norms, steps done."""
    # Copies: what comes from ``.numpy()`` is memory of PyTorch's.
    parameters = {
        name: tensor.detach().numpy().copy() for name, tensor in classifier(case).named_parameters()
    }
    ones = np.ones(case.H, np.float32)
    return {
        "parameters": parameters,
        "first": {name: np.zeros_like(array) for name, array in parameters.items()},
        "second": {name: np.zeros_like(array) for name, array in parameters.items()},
        "norms": [(0 * ones, ones.copy()) for _ in range(case.layers)],
        "steps": np.zeros((), np.int32),
    }


def _batch(case: ClassifierCase) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = classifier_batch(case)
    return inputs.numpy(), targets.numpy().astype(np.int32)


def _train(jax: Any, layers: int, state: Tree, inputs: Any, targets: Any) -> Tree:
    def loss_and_norms(parameters: Tree) -> Any:
        logits, norms = _forward(jax, parameters, state["norms"], inputs, layers)
        return _cross_entropy(jax, logits, targets), norms

    gradients, norms = jax.grad(loss_and_norms, has_aux=True)(state["parameters"])
    return {**_adamw(jax, state, gradients), "norms": norms}


def _adamw(jax: Any, state: Tree, gradients: Tree) -> Tree:
    beta_1, beta_2 = BETAS
    steps = state["steps"] + 1
    first = jax.tree.map(lambda m, g: beta_1 * m + (1 - beta_1) * g, state["first"], gradients)
    second = jax.tree.map(lambda v, g: beta_2 * v + (1 - beta_2) * g * g, state["second"], gradients)
    bias_1, bias_2 = 1 - beta_1**steps, 1 - beta_2**steps

    def update(p: Any, m: Any, v: Any) -> Any:
        direction = (m / bias_1) / (jax.numpy.sqrt(v / bias_2) + EPSILON)
        return p * (1 - LEARNING_RATE * WEIGHT_DECAY) - LEARNING_RATE * direction

    parameters = jax.tree.map(update, state["parameters"], first, second)
    return {"parameters": parameters, "first": first, "second": second, "steps": steps}


def _forward(jax: Any, parameters: Tree, norms: Any, inputs: Any, layers: int) -> tuple[Any, Any]:
    """Logits, and the running statistics of the norms after this batch."""
    hidden = inputs @ parameters["encoder.weight"].T + parameters["encoder.bias"]
    after = []
    for index in range(layers):
        prefix = f"blocks.{index}."
        block = {name.removeprefix(prefix): p for name, p in parameters.items() if name.startswith(prefix)}
        hidden, statistics = _block(jax, block, norms[index], hidden)
        after.append(statistics)
    return hidden.mean(axis=1) @ parameters["head.weight"].T + parameters["head.bias"], after


def _block(jax: Any, block: Tree, running: Any, x: Any) -> tuple[Any, Any]:
    count = x.shape[0] * x.shape[1]
    mean, variance = x.mean(axis=(0, 1)), x.var(axis=(0, 1))
    after = (
        (1 - MOMENTUM) * running[0] + MOMENTUM * mean,
        (1 - MOMENTUM) * running[1] + MOMENTUM * variance * count / (count - 1),
    )
    normalised = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
    y = jax.vmap(lambda sequence: _lru(jax, block, sequence))(normalised)
    both = jax.nn.gelu(y, approximate=False) @ block["glu.weight"].T + block["glu.bias"]
    value, gate = jax.numpy.split(both, 2, axis=-1)
    return x + value * jax.nn.sigmoid(gate), after


def _lru(jax: Any, block: Tree, u: Any) -> Any:
    """One sequence ``(L, H)``: project to complex states, scan, project back."""
    eigenvalues = jax.numpy.exp(-jax.numpy.exp(block["mixer.nu"]) + 1j * block["mixer.theta"])
    B_re, B_im = block["mixer.B"]
    C_re, C_im = block["mixer.C"]
    B = (B_re + 1j * B_im) * jax.numpy.exp(block["mixer.gamma_log"])[:, None]
    C = C_re + 1j * C_im
    elements = jax.numpy.broadcast_to(eigenvalues, (u.shape[0], eigenvalues.shape[0]))
    _, states = jax.lax.associative_scan(_compose, (elements, jax.vmap(lambda row: B @ row)(u)))
    return jax.vmap(lambda x, row: (C @ x).real + block["mixer.D"] * row)(states, u)


def _compose(earlier: Any, later: Any) -> Any:
    """Two steps of ``x -> a x + b`` as one."""
    return later[0] * earlier[0], later[0] * earlier[1] + later[1]


def _cross_entropy(jax: Any, logits: Any, targets: Any) -> Any:
    chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
    return -chosen.sum() / math.prod(targets.shape)
