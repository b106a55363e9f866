"""The model behind an atlas, and moving its latents by hand."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.models.hooks import Side
from unweave.models.rest import OnBatch, RestOfNetwork
from unweave.models.rows import RowMeaning, to_rows, with_rows
from unweave.steer.edits import Edits, apply_edits
from unweave.store.activations import Activations

_MOST_OF_A_CLASS = 256


@dataclass(frozen=True, eq=False)
class Source:
    """What is steered: the hook point's tensor of one example, or its mean over a class.

    Attributes:
        name: in words.
        values: the tensor [1, …].
        rows: its rows [m, d_in], in the dictionary's precision.
        codes: their codes [m, d_sae].
    """

    name: str
    values: Tensor
    rows: Float[Tensor, "m d_in"]
    codes: Float[Tensor, "m d_sae"]
    batch: OnBatch


class Network:
    """A model, one of its hook points, and a dictionary of it.

    Attributes:
        model: the module.
        at: the hook point.
        meaning: what a row is.
        side: the module's output or its input.
        dictionary: its latents.
        class_names: of the classes; none where the model's answer is no choice between them.
        lock: held while the model runs: hooks of two threads would meet in one module.
    """

    def __init__(
        self, model: nn.Module, activations: Activations, dictionary: Dictionary, class_names: Sequence[str]
    ) -> None:
        config = activations.manifest.config
        self.model, self.dictionary = model, dictionary
        self.at = activations.hook_name
        self.meaning: RowMeaning = config["rows"]
        self.side: Side = config["side"]
        self.layout = activations.layout
        self.class_names = list(class_names)
        self.lock = threading.Lock()

    def source(self, images: Float[Tensor, "b c h w"], name: str) -> Source:
        """What the model makes of an image; of several, their mean.

        Raises:
            InputError: a mean of several where something passes the hook point by, so that it has no answer.
        """
        with self.lock, torch.no_grad():
            rest = RestOfNetwork(self.model, self.at, side=self.side)
            batch = rest.on(images[:_MOST_OF_A_CLASS])
            values = batch.values.mean(0, keepdim=True)
            if len(images) > 1 and not rest.shortcut:
                raise InputError(f"A mean over images has no answer of the model's: {rest.why}. Choose one image.")
            read = to_rows(
                values, self.meaning, examples=1, name=self.at, layout=self.layout, width=self.dictionary.d_in
            )
            rows = read.values.to(self.dictionary.device, self.dictionary.directions().dtype)
            return Source(name, values, rows, self.dictionary.encode(rows), batch)

    @torch.no_grad()
    def moved(self, source: Source, edits: Edits) -> Float[Tensor, "m d_in"]:
        """The source's rows with its latents moved; what the dictionary misses of them stays in them."""
        codes = apply_edits(source.codes, edits)
        return source.rows + (self.dictionary.decode(codes) - self.dictionary.decode(source.codes))

    @torch.no_grad()
    def answers(self, source: Source, rows: Sequence[Float[Tensor, "m d_in"]]) -> Float[Tensor, "v outputs"]:
        """The model's answers to variants of the source's rows."""
        values = torch.cat([with_rows(source.values, one, self.meaning, layout=self.layout) for one in rows])
        with self.lock:
            return source.batch(values, torch.zeros(len(rows), dtype=torch.int64)).double().cpu()

    def classifies(self, answers: Float[Tensor, "v outputs"]) -> bool:
        """Whether answers are a choice between the known classes."""
        return bool(self.class_names) and answers.ndim == 2 and answers.shape[1] == len(self.class_names)
