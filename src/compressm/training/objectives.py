"""What training means for each kind of task: its model, its loss, and what counts in the end."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressm.data import IGNORE, Batch, Split, Task, token_ids
from compressm.models import (
    LanguageModel,
    PairClassifier,
    SequenceClassifier,
    SequenceModel,
    SequenceRegressor,
    TokenLoss,
)
from compressm.training.model_config import ModelConfig
from compressm.training.rollout import rollout_error
from compressm.training.score import Metric, Score

Model = SequenceModel | LanguageModel
Sizes = int | Sequence[int]
Sums = dict[str, Tensor]


class Objective(ABC):
    """One kind of task, as the training loop sees it.

    Attributes:
        metric: What validation and test are compared by.
        evaluation_batch: Sequences at once where no gradients are needed.
    """

    metric = Metric("accuracy", "max")
    evaluation_batch = 250

    @abstractmethod
    def make_model(self, task: Task, settings: ModelConfig, state_dim: Sizes) -> Model:
        """A fresh model for the task, with ``state_dim`` states in place of those of the settings."""

    def prepare(self, split: Split) -> Split:
        """The split with the inputs that the model reads."""
        return split

    def disturbed(self, batch: Batch, noise: float) -> Batch:
        """The training batch, with noise on inputs that stand for outputs of the model itself."""
        del noise
        return batch

    def arguments(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """What the model is called with."""
        return batch.inputs, batch.lengths

    def forward(self, model: Model, batch: Batch) -> Tensor:
        """The model's outputs."""
        outputs: Tensor = model(*self.arguments(batch))
        return outputs

    def learn(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Loss of a training batch, to differentiate, and share of right answers."""
        outputs = self.forward(model, batch)
        return self.loss(outputs, batch.targets), self.accuracy(outputs.detach(), batch.targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is minimised, a mean: cross entropy in nats."""
        return F.cross_entropy(outputs, targets)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Share of right answers in a batch; None where nothing is right or wrong."""
        return (outputs.argmax(dim=1) == targets).float().mean()

    def measure(self, model: Model, batch: Batch) -> Sums:
        """What a batch adds to the sums from which :meth:`score` is made, float64."""
        outputs, targets = self.forward(model, batch), batch.targets
        return {
            "loss": F.cross_entropy(outputs, targets, reduction="sum").double(),
            "right": (outputs.argmax(dim=1) == targets).sum().double(),
            "count": torch.tensor(len(targets), dtype=torch.float64),
        }

    def score(self, sums: Mapping[str, Tensor]) -> Score:
        """The score of the split that was summed up."""
        loss, right, count = (float(sums[name]) for name in ("loss", "right", "count"))
        return Score(loss=loss / count, metric=self.metric, figures=self.figures(loss / count, right / count))

    def figures(self, loss: float, accuracy: float | None) -> dict[str, float]:
        """What is told beside a mean loss."""
        del loss
        return {} if accuracy is None else {"accuracy": accuracy}

    def closing(self, model: Model, split: Split) -> dict[str, float]:
        """More figures, for the test alone, which take longer."""
        del model, split
        return {}


class Classification(Objective):
    """One class for a sequence: cross entropy and accuracy."""

    def make_model(self, task: Task, settings: ModelConfig, state_dim: Sizes) -> Model:
        """A :class:`SequenceClassifier`."""
        return SequenceClassifier(task.input_dim, task.num_classes, **_body(settings, state_dim))


class Pairs(Objective):
    """One class for two sequences: cross entropy and accuracy."""

    evaluation_batch = 50

    def make_model(self, task: Task, settings: ModelConfig, state_dim: Sizes) -> Model:
        """A :class:`PairClassifier`."""
        return PairClassifier(task.input_dim, task.num_classes, **_body(settings, state_dim))


class Tokens(Objective):
    """The symbol after each, or the answers where only these count: cross entropy over the steps that count.

    Answers are compared by accuracy, texts and sound in bits for each symbol, other streams by perplexity.
    """

    evaluation_batch = 100

    def __init__(self, task: Task) -> None:
        self.masked, self.symbol = task.masked, task.symbol
        if not self.masked:
            self.metric = Metric("perplexity" if self.symbol == "token" else f"bits_per_{self.symbol}", "min")

    def make_model(self, task: Task, settings: ModelConfig, state_dim: Sizes) -> Model:
        """A :class:`LanguageModel`."""
        return LanguageModel(task.num_classes, **_body(settings, state_dim))

    def prepare(self, split: Split) -> Split:
        """The split with ids in place of unit vectors: the model has an embedding."""
        return replace(split, encode=token_ids)

    def arguments(self, batch: Batch) -> tuple[Tensor | None, ...]:
        """The ids; what follows a sequence's end has no target."""
        return (batch.inputs,)

    def learn(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """As of the model's own loss, which needs no logits of a whole batch."""
        found = _token_loss(model, batch)
        return found.mean, found.correct / found.counted

    def measure(self, model: Model, batch: Batch) -> Sums:
        """The same."""
        found = _token_loss(model, batch)
        # The mean over no steps is not a number.
        loss = torch.where(found.counted > 0, found.mean.double() * found.counted, 0.0)
        return {"loss": loss, "right": found.correct.double(), "count": found.counted.double()}

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy in nats of the steps that count."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Share of right symbols among those that count."""
        counts = targets != IGNORE
        # No choice by a mask, whose size a device would have to tell.
        return ((outputs.argmax(dim=-1) == targets) & counts).sum() / counts.sum()

    def figures(self, loss: float, accuracy: float | None) -> dict[str, float]:
        """Accuracy, and for streams the loss in the units of the field."""
        told = super().figures(loss, accuracy)
        if not self.masked:
            if self.symbol != "token":
                told[f"bits_per_{self.symbol}"] = loss / math.log(2)
            # Of a model that is worse than anything; math.exp would raise instead.
            told["perplexity"] = math.exp(loss) if loss < 700 else math.inf
        return told


class Regression(Objective):
    """Real values at every step: mean square error, compared by its root over the targets' deviation.

    The normalised error is 1 for a model that gives the mean, and averages over channels in the square.
    """

    metric = Metric("nrmse", "min")

    def __init__(self, task: Task) -> None:
        self.feedback, self.target_dim = task.feedback, task.target_dim

    def make_model(self, task: Task, settings: ModelConfig, state_dim: Sizes) -> Model:
        """A :class:`SequenceRegressor`."""
        return SequenceRegressor(task.input_dim, task.target_dim, **_body(settings, state_dim))

    def disturbed(self, batch: Batch, noise: float) -> Batch:
        """With noise on the inputs that a roll-out feeds back: there they hold the model's own errors."""
        if noise == 0.0 or not self.feedback:
            return batch
        inputs = batch.inputs.clone()
        inputs[..., : self.target_dim] += noise * torch.randn_like(inputs[..., : self.target_dim])
        return batch._replace(inputs=inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean square error."""
        return F.mse_loss(outputs, targets)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """None."""
        del outputs, targets
        return None

    def measure(self, model: Model, batch: Batch) -> Sums:
        """Errors and targets, squared and summed for each channel."""
        outputs, wanted = self.forward(model, batch), batch.targets.double().flatten(0, -2)
        return {
            "error": (outputs.double().flatten(0, -2) - wanted).square().sum(0),
            "targets": wanted.sum(0),
            "squares": wanted.square().sum(0),
            "count": torch.tensor(len(wanted), dtype=torch.float64),
        }

    def score(self, sums: Mapping[str, Tensor]) -> Score:
        """Mean square error and normalised root mean square error."""
        error, count = sums["error"] / sums["count"], sums["count"]
        variance = sums["squares"] / count - (sums["targets"] / count).square()
        figures = {"nrmse": float((error / variance).mean().sqrt())}
        return Score(loss=float(error.mean()), metric=self.metric, figures=figures)

    def closing(self, model: Model, split: Split) -> dict[str, float]:
        """For a task whose outputs are the next inputs, the error of a long roll-out."""
        if not self.feedback or not isinstance(model, SequenceRegressor):
            return {}
        return rollout_error(model, split, self.target_dim)


def find_objective(task: Task) -> Objective:
    """What training means for this task."""
    match task.kind:
        case "classification":
            return Classification()
        case "pairs":
            return Pairs()
        case "tokens":
            return Tokens(task)
        case "regression":
            return Regression(task)


def _token_loss(model: Model, batch: Batch) -> TokenLoss:
    if not isinstance(model, LanguageModel):
        raise TypeError(f"tokens are foretold by a LanguageModel, not by a {type(model).__name__}")
    return model.loss(batch.inputs, batch.targets, ignore_index=IGNORE)


def _body(settings: ModelConfig, state_dim: Sizes) -> dict[str, Any]:
    """The arguments that all models have."""
    return {
        "num_layers": settings.num_layers,
        "model_dim": settings.model_dim,
        "state_dim": state_dim,
        "mixer": settings.mixer,
        "dropout": settings.dropout,
        "mixer_options": settings.mixer_options,
    }
