"""Our training step of a sequence classifier: forward, backward, fused AdamW."""

import contextlib
import shutil
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from compressm.bench.cases import ClassifierCase
from compressm.bench.contender import Arrays, Contender, Settings, as_arrays
from compressm.bench.timing import Step
from compressm.data import Batch
from compressm.models import SequenceClassifier
from compressm.training.graph import WARM, GraphedStep

LEARNING_RATE = 4e-4
WEIGHT_DECAY = 0.05


def classifier(case: ClassifierCase) -> SequenceClassifier:
    """The case's model, with parameters that are always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SequenceClassifier(
            case.input_dim,
            case.classes,
            num_layers=case.layers,
            model_dim=case.H,
            state_dim=case.N,
            dropout=case.dropout,
        )


def classifier_batch(case: ClassifierCase) -> tuple[Tensor, Tensor]:
    """Inputs ``(batch, L, input_dim)`` and targets ``(batch,)``, always the same."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(case.batch, case.L, case.input_dim, generator=generator)
    return inputs, torch.randint(case.classes, (case.batch,), generator=generator)


class OurClassifier(Contender[ClassifierCase]):
    """:class:`compressm.models.SequenceClassifier` as it comes, under autocast, or compiled block by block.

    Args:
        settings: How to compute.
        bf16: Under ``torch.autocast`` with bfloat16.
        compiled: With ``torch.compile`` on every block.
        graphed: Loss and gradients replayed from a CUDA graph.
    """

    def __init__(
        self, settings: Settings, *, bf16: bool = False, compiled: bool = False, graphed: bool = False
    ) -> None:
        super().__init__(settings)
        self.bf16, self.compiled, self.graphed = bf16, compiled, graphed
        self.exact = not bf16
        self.name = "compressm" + (" bf16" if bf16 else "") + (" compiled" if compiled else "")
        self.name += " graphed" if graphed else ""

    def missing(self) -> str | None:
        """``torch.compile`` on a CPU needs a C++ compiler."""
        needed = self.compiled and self.settings.device == "cpu"
        if needed and not any(map(shutil.which, ("g++", "clang++", "cl"))):
            return "torch.compile needs a C++ compiler: install g++ or clang++"
        return None

    def load(self, case: ClassifierCase) -> None:
        """Load the kernels; compiled blocks are compiled for the case's own shape."""
        if not self.compiled:
            super().load(case)
            return
        began = time.perf_counter()
        self.step(case)()
        self.compile_seconds = time.perf_counter() - began

    def step(self, case: ClassifierCase) -> Step:
        """A training step."""
        device = self.settings.device
        model = self._model(case).train()
        inputs, targets = (tensor.to(device) for tensor in classifier_batch(case))
        optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

        batch = Batch(inputs, targets, None)

        def differentiate(batch: Batch) -> tuple[Tensor, Tensor]:
            with self._precision():
                logits = model(batch.inputs)
                loss = F.cross_entropy(logits, batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), logits.detach()

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            differentiate(batch)
            optimizer.step()

        if not self.graphed:
            return run
        for _ in range(WARM):
            run()
        graph = GraphedStep(differentiate, batch, optimizer)

        def replay() -> None:
            graph(batch)
            optimizer.step()

        return replay

    def outputs(self, case: ClassifierCase) -> Arrays:
        """Logits and the gradient of every parameter."""
        model = self._model(case).train()
        inputs, targets = (tensor.to(self.settings.device) for tensor in classifier_batch(case))
        with self._precision():
            logits = model(inputs)
            loss = F.cross_entropy(logits, targets)
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters)
        return as_arrays(["logits", *names], [logits, *gradients])

    def _model(self, case: ClassifierCase) -> SequenceClassifier:
        model = classifier(case).to(self.settings.device)
        if self.compiled:
            for block in model.blocks:
                block.compile()
        return model

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.bf16:
            return torch.autocast(self.settings.device, dtype=torch.bfloat16)
        return contextlib.nullcontext()
