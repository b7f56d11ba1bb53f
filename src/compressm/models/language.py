"""Language models: tied embeddings around pre-norm state-space blocks, in parallel and streaming."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressm.layers.mamba_sequences import LayerOperands
from compressm.models.normed_head import head_served, normed_head
from compressm.models.pre_norm_block import LANGUAGE_MIXERS, PreNormBlock, make_mixer
from compressm.models.rms_norm import RMSNorm
from compressm.models.sampling import check_sampling, draw
from compressm.models.token_loss import TokenLoss, TokenOperands, saves_memory, token_loss
from compressm.scan.runtime.tracing import bare

StreamState = tuple[Tensor, ...]
"""What a streaming language model carries from token to token: one state for each layer."""


class LanguageModel(nn.Module):
    """Next-token logits: embeddings, ``num_layers`` blocks, RMS norm, and the embeddings again as the head.

    With ``mixer="mamba"`` parameters have the names and shapes of Transformers' ``MambaModel``, with "mamba2"
    those of ``Mamba2Model``: state dicts of such a ``backbone`` load as they are.

    Args:
        vocab_size: Tokens ``V``.
        num_layers: Blocks.
        model_dim: Channels ``H``.
        state_dim: States ``N`` of every layer, or one number for each (a model after cuts has its own sizes).
        mixer: The state-space layer, one of ``compressm.models.pre_norm_block.LANGUAGE_MIXERS``.
        mixer_options: More keyword arguments of the layers, such as ``{"expand": 4}``; the same for all.
        feed_forward: Whether a block has a gated feed-forward part after its layer. By default what the layer
            is known with: none for Mamba, which has one in itself.
        dropout: Probability of dropout before each residual sum.

    Initialisation: embeddings normal with deviation 0.02, all else as the layers do.

    Raises:
        TypeError: If the layer does not know an option.
        ValueError: If the mixer is unknown, a size or probability is out of range, or ``state_dim`` has
            another length than ``num_layers``.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        num_layers: int,
        model_dim: int,
        state_dim: int | Sequence[int],
        mixer: str = "mamba",
        mixer_options: Mapping[str, Any] | None = None,
        feed_forward: bool | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mixer not in LANGUAGE_MIXERS:
            raise ValueError(f"mixer is {mixer!r}; choose one of {', '.join(sorted(LANGUAGE_MIXERS))}")
        for name, size in (("vocab_size", vocab_size), ("num_layers", num_layers), ("model_dim", model_dim)):
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
        sizes = [state_dim] * num_layers if isinstance(state_dim, int) else list(state_dim)
        if len(sizes) != num_layers:
            raise ValueError(f"state_dim has {len(sizes)} entries for {num_layers} layers; give one for each")
        self.mixer, self.dropout = mixer, dropout
        self.mixer_options = dict(mixer_options or {})
        self.feed_forward = LANGUAGE_MIXERS[mixer].feed_forward if feed_forward is None else feed_forward
        self.embeddings = nn.Embedding(vocab_size, model_dim)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(
            PreNormBlock(
                make_mixer(LANGUAGE_MIXERS[mixer].make, mixer, model_dim, size, self.mixer_options),
                model_dim,
                feed_forward=self.feed_forward,
                dropout=dropout,
            )
            for size in sizes
        )
        self.norm_f = RMSNorm(model_dim, eps=1e-5)

    @property
    def vocab_size(self) -> int:
        """Tokens ``V``."""
        return self.embeddings.num_embeddings

    @property
    def state_dims(self) -> list[int]:
        """States of each layer as it is now."""
        return [block.mixer.state_dim for block in self._blocks()]

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this model at its present sizes."""
        return {
            "vocab_size": self.vocab_size,
            "num_layers": len(self.layers),
            "model_dim": self.embeddings.embedding_dim,
            "state_dim": self.state_dims,
            "mixer": self.mixer,
            "mixer_options": dict(self.mixer_options),
            "feed_forward": self.feed_forward,
            "dropout": self.dropout,
        }

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the token after each.

        Args:
            tokens: ``(batch, L)``, integers in ``0..V-1``.

        Returns:
            Logits ``(batch, L, V)``, under autocast in float32.

        Raises:
            TypeError: If the tokens are no integers.
            ValueError: If they are no such batch, or (on a CPU) one is outside the vocabulary.
        """
        return self._logits(self._run(tokens, None, final_state=False)[0])

    def loss(self, tokens: Tensor, targets: Tensor, *, ignore_index: int = -100) -> TokenLoss:
        """Cross entropy of the logits with the tokens that follow.

        What ``cross_entropy(model(tokens), targets)`` gives. On a CPU, Mamba models make it and its gradients
        in one go, sequence by sequence, where nobody watches the parts: quicker, and in memory that does not
        grow with the batch. Gradients are made whenever PyTorch records them, so score under
        ``torch.no_grad()``. What wraps a model to act on its calls, as DistributedDataParallel does, sees no
        call here: take the cross entropy of the wrapper's logits instead.

        Args:
            tokens: ``(batch, L)``, integers in ``0..V-1``.
            targets: ``(batch, L)``, the token after each, such as ``text[:, 1:]`` for ``text[:, :-1]``.
            ignore_index: Targets of this value do not count.

        Raises:
            TypeError: If tokens or targets are no integers.
            ValueError: If they are no such batch, or (on a CPU) one is outside the vocabulary.
        """
        self._check(tokens, dims=2)
        count = self._check_targets(tokens, targets, ignore_index)
        operands = self._loss_operands(tokens, targets, ignore_index)
        if operands is not None:
            mean, correct = token_loss(operands, int(count))
            return TokenLoss(mean, correct, count)
        logits = self(tokens)
        mean = F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), ignore_index=ignore_index)
        correct = ((logits.detach().argmax(dim=-1) == targets) & (targets != ignore_index)).sum()
        return TokenLoss(mean, correct, count)

    def advance(self, tokens: Tensor, state: StreamState | None = None) -> tuple[Tensor, StreamState]:
        """Run whole sequences on from a state, such as a prompt before :meth:`step`.

        Args:
            tokens: ``(batch, L)``.
            state: What an earlier call returned for the tokens before; None at the start.

        Returns:
            Logits ``(batch, L, V)`` and the state after the last token.

        Raises:
            TypeError: If the tokens are no integers.
            ValueError: If tokens or state do not fit the model.
        """
        hidden, state = self._run(tokens, state, final_state=True)
        return self._logits(hidden), state

    def step(self, token: Tensor, state: StreamState | None = None) -> tuple[Tensor, StreamState]:
        """Take one token of each sequence, ``(batch,)``; returns logits ``(batch, V)`` and the new state.

        Raises:
            TypeError: If the tokens are no integers.
            ValueError: If tokens or state do not fit the model.
        """
        self._check(token, dims=1)
        states = self._states(state)
        hidden = self.embeddings(token)
        after = []
        for block, before in zip(self._blocks(), states, strict=True):
            hidden, last = block.step(hidden, before)
            after.append(last)
        return self._logits(hidden), tuple(after)

    @torch.no_grad()
    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue prompts, token by token: the cost of one does not grow with what came before.

        Args:
            prompt: ``(batch, L)`` with ``L >= 1``.
            max_new_tokens: Tokens to add.
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Draw among so many of the likeliest tokens; among all if None.
            generator: Source of randomness; the default one if None.

        Returns:
            Prompt and continuation, ``(batch, L + max_new_tokens)``.

        Raises:
            RuntimeError: In training mode.
            TypeError: If the tokens are no integers.
            ValueError: If the prompt does not fit the model or a setting is out of range.
        """
        if self.training:
            raise RuntimeError("generate() samples from a trained model: call model.eval() first")
        check_sampling(max_new_tokens, temperature, top_k)
        hidden, state = self._run(prompt, None, final_state=True)
        logits, tokens = self._logits(hidden[:, -1]), list(prompt.unbind(1))
        for index in range(max_new_tokens):
            tokens.append(draw(logits, temperature, top_k, generator).to(prompt.dtype))
            if index + 1 < max_new_tokens:
                logits, state = self.step(tokens[-1], state)
        return torch.stack(tokens, dim=1)

    def _run(
        self, tokens: Tensor, state: StreamState | None, *, final_state: bool
    ) -> tuple[Tensor, StreamState]:
        self._check(tokens, dims=2)
        states = self._states(state)
        hidden = self.embeddings(tokens)
        after = []
        for block, before in zip(self._blocks(), states, strict=True):
            hidden, last = block(hidden, before, final_state=final_state)
            after.append(last)
        return hidden, tuple(after)

    def _logits(self, hidden: Tensor) -> Tensor:
        return normed_head(hidden, self.norm_f, self.embeddings.weight)

    def _loss_operands(self, tokens: Tensor, targets: Tensor, ignore_index: int) -> TokenOperands | None:
        """What :func:`token_loss` reads, if it may take the place of the model's parts."""
        table = self.embeddings
        usual = table.max_norm is None and not table.scale_grad_by_freq and not table.sparse
        if not (usual and bare(self, LanguageModel) and bare(table, nn.Embedding) and tokens.is_cpu):
            return None
        if 0 <= ignore_index < self.vocab_size or table.padding_idx is not None:
            return None
        # Of the shape and type of embeddings, without their memory.
        size = (*tokens.shape, table.embedding_dim)
        x = torch.empty_strided(size, (0, 0, 0), dtype=table.weight.dtype, device=table.weight.device)
        if not head_served(x, self.norm_f, table.weight):
            return None
        layers = tuple(block.operands(x) for block in self._blocks())
        if any(layer is None for layer in layers):
            return None
        operands = TokenOperands(
            tokens.long().contiguous(), targets.long().contiguous(), table.weight, self.norm_f.weight,
            cast(float, self.norm_f.eps), cast(tuple[LayerOperands, ...], layers),
        )  # fmt: skip
        return operands if not torch.is_grad_enabled() or saves_memory(operands) else None

    def _blocks(self) -> list[PreNormBlock]:
        return cast(list[PreNormBlock], list(self.layers))

    def _states(self, state: StreamState | None) -> Sequence[Tensor | None]:
        if state is None:
            return [None] * len(self.layers)
        if len(state) != len(self.layers):
            raise ValueError(
                f"the state holds {len(state)} layers, the model has {len(self.layers)}; "
                "give what advance() or step() of this model returned"
            )
        return state

    def _check_targets(self, tokens: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        """How many count."""
        if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
            raise TypeError(f"targets are {targets.dtype}; give integers, such as targets.long()")
        if targets.shape != tokens.shape:
            raise ValueError(
                f"targets have shape {tuple(targets.shape)}, tokens {tuple(tokens.shape)}; "
                "give the token after each"
            )
        counts = targets != ignore_index
        if targets.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(end) for end in targets.aminmax())
            if low >= 0 and high < self.vocab_size and not 0 <= ignore_index < self.vocab_size:
                return torch.tensor(targets.numel(), device="cpu")
            wrong = counts & ((targets < 0) | (targets >= self.vocab_size))
            if wrong.any():
                raise ValueError(
                    f"targets hold {int(targets[wrong][0])}; each must be in 0..{self.vocab_size - 1}, "
                    f"or {ignore_index} where it does not count"
                )
        return counts.sum()

    def _check(self, tokens: Tensor, dims: int) -> None:
        shape = "(batch, L) with L >= 1" if dims == 2 else "(batch,)"
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise TypeError(f"tokens are {tokens.dtype}; give integers, such as tokens.long()")
        if tokens.dim() != dims or tokens.numel() == 0:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected {shape}")
        # Elsewhere this would wait for the device at every step.
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = (int(end) for end in tokens.aminmax())
            if low < 0 or high >= self.vocab_size:
                wrong = low if low < 0 else high
                raise ValueError(f"tokens hold {wrong}; each must be in 0..{self.vocab_size - 1}")
