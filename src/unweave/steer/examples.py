"""Examples that a stage reads more than once, with what is known of them."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.datasets.base import Dataset, ImageDataset, TextDataset


@runtime_checkable
class EncodesTexts(Protocol):
    """A network that makes one tensor of texts, token ids and mask [b, 2, t], and takes it."""

    def encode(self, texts: Sequence[str], *, length: int | None = None) -> Tensor:
        """The tensor of some texts."""
        ...


class Examples:
    """Inputs of a model in order, their classes and a fingerprint of both.

    Attributes:
        n: number of examples.
        labels: class of each, where it is known.
        class_names: names of the classes, where they are known.
        id: fingerprint.
    """

    def __init__(
        self,
        examples: Tensor | Dataset,
        labels: Tensor | Sequence[int] | None = None,
        class_names: Sequence[str] | None = None,
        model: object = None,
    ) -> None:
        if not isinstance(examples, (Tensor, ImageDataset, TextDataset)):
            raise InputError(
                f"examples must be a tensor [n, …] or a data set, which can be read again; got a "
                f"{type(examples).__name__}"
            )
        if isinstance(examples, TextDataset) and not isinstance(model, EncodesTexts):
            raise InputError(
                f"a {type(model).__name__} takes no texts: it has no tokenizer of its own (`encode`, as the model "
                "'pretrained' has); give it token ids as a tensor"
            )
        self._examples, self._model = examples, model
        self.n = len(examples)
        if not self.n:
            raise InputError("there are no examples")
        if isinstance(examples, Dataset):
            if labels is None and (class_names is None or list(class_names) == list(examples.class_names)):
                labels = examples.labels  # they count the data's classes: of others they say nothing
            class_names = examples.class_names if class_names is None else class_names
        self.labels = None if labels is None else _checked(labels, self.n)
        self.class_names = None if class_names is None else list(class_names)
        own = examples.id if isinstance(examples, Dataset) else hash_tensor(examples)
        self.id = own if self.labels is None else f"{own} {hash_tensor(self.labels)}"

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """Inputs in order; of a data set, images in [0, 1], or token ids and mask [b, 2, t] of texts."""
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(self._examples, Tensor):
            yield from self._examples.split(batch_size)
        elif isinstance(self._examples, ImageDataset):
            yield from (batch.images for batch in self._examples.batches(batch_size))
        else:
            assert isinstance(self._examples, TextDataset)
            assert isinstance(self._model, EncodesTexts)
            for start in range(0, self.n, batch_size):
                yield self._model.encode(list(self._examples.texts[start : start + batch_size]))

    def known_labels(self, classes: int, needed_for: str) -> Int64[Tensor, " n"]:
        """The labels, of which the model answers with `classes`.

        Raises:
            InputError: there are none, or one is no class of the model's.
        """
        if self.labels is None:
            raise InputError(f"{needed_for} needs to know what is right: give labels=, one for each example")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            raise InputError(
                f"labels lie from {int(self.labels.min())} to {int(self.labels.max())}, the model answers with "
                f"{classes} classes, counted from 0"
            )
        return self.labels

    def names(self, classes: int) -> list[str]:
        """A name for each class: its number where none was given.

        Raises:
            InputError: there are more or fewer names.
        """
        if self.class_names is None:
            return [str(number) for number in range(classes)]
        if len(self.class_names) != classes:
            raise InputError(f"there are {len(self.class_names)} class names; the model answers with {classes} classes")
        return self.class_names


def _checked(labels: Tensor | Sequence[int], n: int) -> Int64[Tensor, " n"]:
    tensor = torch.as_tensor(labels)
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise InputError(f"labels must be whole numbers [n], got {tensor.dtype} {list(tensor.shape)}")
    if len(tensor) != n:
        raise InputError(f"there are {len(tensor):,} labels for {n:,} examples")
    return tensor.to("cpu", torch.int64)
