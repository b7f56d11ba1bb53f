"""A training step of a small Mamba language model: Transformers as it comes, and with our recurrence."""

import importlib
import importlib.util
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from compressm.bench.cases import MambaCase
from compressm.bench.contender import Arrays, Contender, as_arrays
from compressm.bench.selective import MambapySelective
from compressm.bench.timing import Step
from compressm.scan import selective_scan


class TransformersMamba(Contender[MambaCase]):
    """``transformers.MambaForCausalLM``, on a CPU its fallback in plain PyTorch."""

    name = "Transformers"
    use_mambapy = False

    def missing(self) -> str | None:
        """Transformers may not be installed."""
        return None if importlib.util.find_spec("transformers") else "not installed: pip install transformers"

    def model(self, case: MambaCase) -> nn.Module:
        """The case's model, with parameters that are always the same."""
        transformers = importlib.import_module("transformers")
        transformers.logging.set_verbosity_error()  # its notes on the fallback would tear the progress bar
        config = transformers.MambaConfig(
            vocab_size=case.vocabulary,
            hidden_size=case.hidden,
            state_size=case.N,
            num_hidden_layers=case.layers,
            time_step_rank=math.ceil(case.hidden / 16),
            use_cache=False,
            use_mambapy=self.use_mambapy,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = transformers.MambaForCausalLM(config)
        return model.to(self.settings.device).train()

    def step(self, case: MambaCase) -> Step:
        """Forward, cross entropy of the next token, backward, fused AdamW."""
        model, tokens = self.model(case), self._tokens(case)
        optimizer = AdamW(model.parameters(), fused=True)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            _loss(model(tokens[:, :-1]).logits, tokens).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return run

    def outputs(self, case: MambaCase) -> Arrays:
        """Logits and the gradient of every parameter."""
        model, tokens = self.model(case), self._tokens(case)
        logits = model(tokens[:, :-1]).logits
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(_loss(logits, tokens), parameters)
        return as_arrays(["logits", *names], [logits, *gradients])

    def _tokens(self, case: MambaCase) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        size = (case.batch, case.L + 1)
        return torch.randint(case.vocabulary, size, generator=generator).to(self.settings.device)


class TransformersWithMambapy(TransformersMamba):
    """The same with the option ``use_mambapy``: mambapy's parallel scan inside."""

    name = "Transformers with mambapy"
    use_mambapy = True

    def missing(self) -> str | None:
        """Either package may not be installed."""
        return super().missing() or MambapySelective(self.settings).missing()


class OurMamba(TransformersMamba):
    """The same model with every mixer computed by :func:`compressm.scan.selective_scan`."""

    name = "compressm"

    def model(self, case: MambaCase) -> nn.Module:
        """The model with its mixers exchanged; parameters keep their names and values."""
        model: Any = super().model(case)
        for layer in model.backbone.layers:
            layer.mixer = _Mixer(layer.mixer)
        trained: nn.Module = model
        return trained


class _Mixer(nn.Module):
    """A Mamba layer on the parameters of Transformers' mixer."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.conv1d, self.in_proj, self.x_proj = like.conv1d, like.in_proj, like.x_proj
        self.dt_proj, self.out_proj = like.dt_proj, like.out_proj
        self.A_log, self.D = like.A_log, like.D

    def forward(self, hidden: Tensor, *_: object, **__: object) -> Tensor:
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.mT)[..., : x.shape[1]]).mT
        N = self.A_log.shape[1]
        delta, B, C = self.x_proj(x).split([self.dt_proj.in_features, N, N], dim=-1)
        y: Tensor = selective_scan(
            x,
            F.linear(delta, self.dt_proj.weight),
            -torch.exp(self.A_log),
            B,
            C,
            self.D,
            z,
            self.dt_proj.bias,
            delta_softplus=True,
        )[0]
        projected: Tensor = self.out_proj(y)
        return projected


def _loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
