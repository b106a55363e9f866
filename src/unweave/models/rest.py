"""The rest of a network: its answers as a function of what a hook point gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime, flops
from unweave.models.hooks import Side, evaluating, only_tensor
from unweave.models.replace import replacing, resolve_one

_ROUNDING = 64  # units in the last place of the largest answer


class RestOfNetwork:
    """Runs what comes after a hook point without paying for what comes before it, where that is sound.

    The model runs on one example, with the hook point's tensor replaced by a whole batch of them. That is the answer to
    the batch only if nothing passes the hook point by: a skip connection around it would carry the one example's part
    to all of them, and broadcasting would hide it. So on each batch the short way is held against the answers of an
    honest pass, and on the first one with tensors dealt to other examples too. Once it differs, or fails, every later
    answer comes from honest passes.

    Attributes:
        model: the network.
        name: dotted name of the hook point.
        side: what the module gives, or its first input.
        shortcut: whether the short way has held so far.
        why: what spoke against it, "" while it holds.
    """

    def __init__(self, model: nn.Module, at: str, *, side: Side = "output") -> None:
        self.model, self.name, self.side = model, resolve_one(model, at), side
        self.shortcut = True
        self.why = ""
        self._checked = False

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def on(self, inputs: Tensor) -> "OnBatch":
        """One honest pass over a batch: its tensor at the hook point, its answers, and the rest as a function.

        Raises:
            InputError: the pass does not call the hook point exactly once, or the model has no answer for each example.
        """
        inputs = inputs.to(self.device)
        read: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            read.append(tensor.detach().clone())  # a later module may write into it
            return tensor

        with torch.no_grad(), evaluating(self.model), replacing(self.model, {self.name: keep}, side=self.side):
            given = answers_of(self.model(inputs)).detach()
        if given.ndim < 1 or len(given) != len(inputs):
            raise InputError(f"the model answers {len(inputs)} examples with a tensor {list(given.shape)}")
        batch = OnBatch(self, inputs, read[0], given)
        if self.shortcut:
            self._verify(batch)
        return batch

    @contextmanager
    def threads_for(self, inputs: Tensor) -> Iterator[None]:
        """As many CPU threads inside the block as suit passes over batches like this one.

        Passes of a small network gain little from a second thread, and lose most of their time to waiting wherever
        another process uses that core.
        """
        batch = self.on(inputs)
        with Runtime().threads_for(flops(lambda: self.run(batch.inputs, batch.values))):
            yield

    @torch.no_grad()
    def _verify(self, batch: "OnBatch") -> None:
        values = batch.values
        one_more = [torch.cat([tensor, tensor[:1]]) for tensor in (values, batch.answers)]
        tries = [(one_more[0], one_more[1])]
        if not self._checked and len(values) > 1:
            dealt = values.roll(1, 0)
            tries.append((dealt, self.run(batch.inputs, dealt)))
            self._checked = True
        for tensor, honest in tries:
            try:
                short = self.run(batch.inputs[:1], tensor)
            except Exception as error:  # a model that needs as many tensors as examples may fail in any way
                self._give_up(f"it fails: {type(error).__name__}: {error}")
                return
            if short.shape != honest.shape or not _close(short, honest):
                self._give_up(f"something passes {self.name!r} by (a skip connection?): the answers differ")
                return

    def _give_up(self, why: str) -> None:
        self.shortcut, self.why = False, why

    def run(self, inputs: Tensor, values: Tensor) -> Tensor:
        """The model's answers to these inputs with these values at the hook point, in evaluation mode."""
        with evaluating(self.model), replacing(self.model, {self.name: lambda _: values.clone()}, side=self.side):
            return answers_of(self.model(inputs))


class OnBatch:
    """The rest of a network, for examples of one batch.

    Attributes:
        inputs: the examples [b, …].
        values: the hook point's tensor [b, …] for them.
        answers: the model's own answers [b, …].
    """

    def __init__(self, rest: RestOfNetwork, inputs: Tensor, values: Tensor, answers: Tensor) -> None:
        self._rest = rest
        self.inputs, self.values, self.answers = inputs, values, answers

    def __call__(self, values: Tensor, example: Int64[Tensor, " m"] | None = None) -> Tensor:
        """Answers [m, …] with values [m, …] at the hook point.

        Args:
            values: any number of tensors, in the model's precision.
            example: place in the batch of the example that each belongs to; by default they belong to the batch's
                examples in order.
        """
        if self._rest.shortcut:
            return self._rest.run(self.inputs[:1], values)
        return self._rest.run(self.inputs if example is None else self.inputs[example], values)


def answers_of(output: object) -> Tensor:
    """The tensor of a whole model's output: `logits` where it has them, else what `only_tensor` reads.

    Raises:
        InputError: there is none.
    """
    logits = getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else only_tensor(output, "(model)")


def _close(short: Tensor, honest: Tensor) -> bool:
    if not honest.is_floating_point():
        return torch.equal(short, honest)
    finite = honest[honest.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 1.0
    room = _ROUNDING * torch.finfo(honest.dtype).eps * largest
    return torch.allclose(short, honest, rtol=0, atol=room, equal_nan=True)
