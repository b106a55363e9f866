"""The model behind an atlas, and moving its latents by hand."""

import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary
from unweave.models.adopted import ReadsText
from unweave.models.hooks import Side
from unweave.models.places import mask_of
from unweave.models.rest import OnBatch, RestOfNetwork
from unweave.models.rows import RowMeaning, to_rows, with_rows
from unweave.recipes.answers import Answers, kind_of
from unweave.steer.edits import Edits, apply_edits
from unweave.steer.examples import EncodesTexts
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
        position: of each row in the example.
        batch: the rest of the network.
        tokens: of a text, as it is read; none of images.
    """

    name: str
    values: Tensor
    rows: Float[Tensor, "m d_in"]
    codes: Float[Tensor, "m d_sae"]
    position: Int64[Tensor, " m"]
    batch: OnBatch
    tokens: tuple[str, ...] = ()

    @property
    def mask(self) -> Tensor | None:
        """Which tokens of a text are real."""
        return mask_of(self.batch.inputs[:1])


class Network:
    """A model, one of its hook points, and a dictionary of it.

    Attributes:
        model: the module.
        at: the hook point.
        meaning: what a row is.
        side: the module's output or its input.
        dictionary: its latents.
        class_names: of the data's classes.
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

    def of_text(self, text: str, name: str) -> Source:
        """What the model makes of a text.

        Raises:
            InputError: the model reads no texts.
        """
        model: object = self.model
        if not isinstance(model, EncodesTexts) or not isinstance(model, ReadsText):
            raise InputError(f"a {type(model).__name__} reads no texts")
        found = self.source(model.encode([text]), name)
        return dataclasses.replace(found, tokens=tuple(model.tokens([text])[0]))

    def source(self, inputs: Float[Tensor, "b c h w"] | Int64[Tensor, "b 2 t"], name: str) -> Source:
        """What the model makes of an image, or of the ids and mask of a text; of several images, their mean.

        Raises:
            InputError: a mean of several where something passes the hook point by, so that it has no answer.
        """
        with self.lock, torch.no_grad():
            rest = RestOfNetwork(self.model, self.at, side=self.side)
            batch = rest.on(inputs[:_MOST_OF_A_CLASS])
            values = batch.values.mean(0, keepdim=True)
            if len(inputs) > 1 and not rest.shortcut:
                raise InputError(f"A mean over images has no answer of the model's: {rest.why}. Choose one image.")
            mask, width = mask_of(batch.inputs[:1]), self.dictionary.d_in
            read = to_rows(values, self.meaning, examples=1, name=self.at, layout=self.layout, mask=mask, width=width)
            rows = read.values.to(self.dictionary.device, self.dictionary.directions().dtype)
            return Source(name, values, rows, self.dictionary.encode(rows), read.position, batch)

    @torch.no_grad()
    def moved(self, source: Source, edits: Edits) -> Float[Tensor, "m d_in"]:
        """The source's rows with its latents moved; what the dictionary misses of them stays in them."""
        codes = apply_edits(source.codes, edits)
        moved, own = (self.dictionary.reconstruct(each, source.rows) for each in (codes, source.codes))
        return source.rows + (moved - own)

    @torch.no_grad()
    def answers(self, source: Source, rows: Sequence[Float[Tensor, "m d_in"]]) -> Float[Tensor, "v outputs"]:
        """The model's answers to variants of the source's rows."""
        how = {"layout": self.layout, "mask": source.mask}
        values = torch.cat([with_rows(source.values, one, self.meaning, **how) for one in rows])  # type: ignore[arg-type]
        with self.lock:
            return source.batch(values, torch.zeros(len(rows), dtype=torch.int64)).double().cpu()

    def kind(self, answers: Float[Tensor, "v outputs"]) -> Answers:
        """What the answers are: a choice between classes or tokens, or vectors."""
        return kind_of(self.model, answers.shape[1], self.class_names)
