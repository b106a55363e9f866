"""Where examples come from, with the index and label of each beside it, whatever order they come in."""

import copy
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from unweave.core.errors import InputError
from unweave.core.hashing import hash_tensor
from unweave.datasets.base import Dataset, ImageDataset, TextDataset
from unweave.datasets.streamed import StreamedImages

Examples = Tensor | Dataset | Iterable[Any]
Tokenize = Callable[..., Mapping[str, Tensor]]
"""From a list of texts to the keyword arguments of a model: the method `tokenize` of one that reads texts."""

_LABEL_KEYS = ("labels", "label", "targets", "target")


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one forward pass, the index and label of each example, and of texts which tokens are real [b, t]."""

    inputs: tuple[Any, ...]
    keywords: dict[str, Any]
    example: Int64[Tensor, " b"]
    label: Int64[Tensor, " b"] | None
    mask: Tensor | None = None

    def checksum(self, before: int = 0) -> int:
        """CRC-32 of its tensors' bytes, going on from that of the batches before it."""
        for value in (*self.inputs, *self.keywords.values(), self.example, self.label):
            if isinstance(value, Tensor):
                content = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                before = zlib.crc32(content.data, before)
        return before


class ExampleStream:
    """Batches of examples from a tensor, a data set, a `DataLoader` or any iterable of batches.

    A `DataLoader` over a data set with indices is read through its own sampler, so that `example` is the index in the
    data set and labels stay with their examples even where it shuffles. From any other iterable, `example` counts.

    Attributes:
        id: fingerprint of the examples, or None where they cannot be known without reading them.
        total: number of examples, where it is known.
        batch_size: examples of a batch, where they do not come in batches.
    """

    def __init__(
        self,
        examples: Examples,
        labels: Tensor | Sequence[int] | None,
        batch_size: int,
        class_names: list[str] | None,
        tokenize: Tokenize | None = None,
    ) -> None:
        self._examples = examples
        self.batch_size = batch_size
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self._labels = None if labels is None else _label_tensor(labels)
        self.class_names = class_names
        self.total: int | None = None
        self.id: str | None = None
        self._tokenize = tokenize
        if isinstance(examples, TextDataset) and tokenize is None:
            raise InputError(
                "the examples are texts, and the model has no tokenizer of its own (a method `tokenize`); give batches "
                "of token ids, or choose a model of texts"
            )
        if isinstance(examples, (ImageDataset, TextDataset)):
            self._labels = examples.labels if self._labels is None else self._labels
            self.class_names = class_names or examples.class_names
            self.total, self.id = len(examples), examples.id
        elif isinstance(examples, StreamedImages):
            self.class_names, self.id = class_names or examples.class_names, examples.id
        elif isinstance(examples, Tensor):
            self.total, self.id = len(examples), hash_tensor(examples)
        elif _has_indices(examples) and isinstance(examples.dataset, Sized):
            self.total = len(examples.dataset)
        elif self._labels is not None and _shuffles(examples):
            raise InputError(
                "labels= cannot be matched with a loader that shuffles and does not tell how (batch_size=None, or its "
                "own __iter__); let the loader give the labels itself"
            )
        if self.total is not None and self._labels is not None and len(self._labels) != self.total:
            raise InputError(f"there are {len(self._labels):,} labels for {self.total:,} examples")

    @property
    def labels_id(self) -> str:
        """Fingerprint of the labels given apart from the examples."""
        return "" if self._labels is None else hash_tensor(self._labels)

    @property
    def seekable(self) -> bool:
        """Whether examples can be had by their index, in any order."""
        return self.total is not None

    def at_epoch(self, epoch: int) -> "ExampleStream":
        """The examples as they are at one pass over them, for data that are drawn anew at each."""
        stream = copy.copy(self)
        for source in (self._examples, getattr(self._examples, "dataset", None)):
            if isinstance(source, ImageDataset):
                stream._examples = source.at_epoch(epoch)
            elif callable(set_epoch := getattr(source, "set_epoch", None)):
                set_epoch(epoch)  # a stream of `datasets` shuffles by it
        return stream

    def order(self) -> list[Int64[Tensor, " _"]]:
        """Indices of the examples of each batch, where they are `seekable`; a loader that shuffles draws them anew."""
        if _has_indices(self._examples):
            assert self._examples.batch_sampler is not None
            return [torch.tensor(list(batch)) for batch in self._examples.batch_sampler]
        assert self.total is not None
        return list(torch.arange(self.total).split(self.batch_size))

    def ordered(self, order: Iterable[Int64[Tensor, " _"]]) -> Iterator[Batch]:
        """Batches of the examples with these indices, where they are `seekable`; read as they are asked for."""
        return self._unpacked(self._at(order))

    def __iter__(self) -> Iterator[Batch]:
        seen = 0
        for batch in self._unpacked(self._indexed()):
            seen += len(batch.example)
            yield batch
        if seen == 0:
            raise InputError("there are no examples to capture")
        if self.total is None and self._labels is not None and len(self._labels) != seen:
            raise InputError(f"there are {len(self._labels):,} labels for {seen:,} examples")

    def _unpacked(self, indexed: Iterator[tuple[Tensor | None, Any]]) -> Iterator[Batch]:
        """Batches as they were read, with the indices and labels that belong to them."""
        seen = 0
        for index, batch in indexed:
            inputs, keywords, own = _unpack(batch)
            size = len(inputs[0] if inputs else next(iter(keywords.values())))
            if size == 0:
                continue
            example = torch.arange(seen, seen + size) if index is None else index
            if len(example) != size:
                raise InputError(
                    f"a batch has inputs for {size} of its {len(example)} examples; which is which is lost"
                )
            if own is not None and len(own) != size:
                raise InputError(f"a batch has {len(own)} labels for {size} examples")
            seen += size
            yield Batch(inputs, keywords, example, self._label(example, own), keywords.get("attention_mask"))

    def _indexed(self) -> Iterator[tuple[Tensor | None, Any]]:
        examples = self._examples
        if isinstance(examples, ImageDataset):
            for batch in examples.batches(self.batch_size):
                yield batch.example, batch.images
        elif isinstance(examples, TextDataset):
            for index in torch.arange(len(examples)).split(self.batch_size):
                yield index, self._tokens(examples, index)
        elif isinstance(examples, Tensor):
            for start in range(0, len(examples), self.batch_size):
                part = examples[start : start + self.batch_size]
                yield torch.arange(start, start + len(part)), part
        elif _has_indices(examples):
            assert examples.batch_sampler is not None
            order = [torch.tensor(list(batch)) for batch in examples.batch_sampler]
            yield from zip(order, _in_order(examples, order), strict=True)
        elif isinstance(examples, StreamedImages):
            for batch in examples.batches(self.batch_size):
                yield batch.example, (batch.images, batch.labels)
        else:
            assert not isinstance(examples, Dataset), "a data set is one of images or one of texts"
            for batch in examples:
                yield None, batch

    def _at(self, order: Iterable[Tensor]) -> Iterator[tuple[Tensor, Any]]:
        examples = self._examples
        if isinstance(examples, ImageDataset):
            asked, read = itertools.tee(order)
            for index, pixels in zip(asked, examples.stream(read), strict=True):
                yield index, pixels.float() / 255
        elif isinstance(examples, TextDataset):
            yield from ((index, self._tokens(examples, index)) for index in order)
        elif isinstance(examples, Tensor):
            yield from ((index, _part(examples, index)) for index in order)
        else:
            assert _has_indices(examples)
            listed = list(order)
            yield from zip(listed, _in_order(examples, listed), strict=True)

    def _tokens(self, examples: TextDataset, index: Tensor) -> dict[str, Tensor]:
        assert self._tokenize is not None
        return dict(self._tokenize([examples.texts[int(one)] for one in index]))

    def _label(self, example: Tensor, own: Tensor | None) -> Tensor | None:
        if self._labels is None:
            return own
        if int(example.max()) >= len(self._labels):
            raise InputError(f"there are {len(self._labels):,} labels, fewer than examples; give one for each example")
        given = self._labels[example]
        if own is not None and not torch.equal(own, given):
            raise InputError(
                "labels= does not agree with the labels that the loader itself gives: it gives the examples in another "
                "order, so each would get another one's label; leave labels= out"
            )
        return given


def _part(examples: Tensor, index: Tensor) -> Tensor:
    """Some of the examples: those that follow each other without a copy."""
    start, stop = (int(index[0]), int(index[-1]) + 1) if len(index) else (0, 0)
    follow = stop - start == len(index) and torch.equal(index, torch.arange(start, stop))
    return examples[start:stop] if follow else examples[index]


def _has_indices(examples: Any) -> "TypeGuard[DataLoader[Any]]":
    return (
        isinstance(examples, DataLoader)
        and type(examples).__iter__ is DataLoader.__iter__
        and not isinstance(examples.dataset, IterableDataset)
        and examples.batch_sampler is not None
    )


def _shuffles(examples: Any) -> bool:
    return (
        isinstance(examples, DataLoader)
        and not isinstance(examples.dataset, IterableDataset)
        and not isinstance(examples.sampler, SequentialSampler)
    )


def _in_order(loader: "DataLoader[Any]", order: list[Tensor]) -> "DataLoader[Any]":
    """The same loader, its order decided beforehand."""
    return DataLoader(
        loader.dataset,
        batch_sampler=[batch.tolist() for batch in order],
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
    )


def _unpack(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Tensor | None]:
    """Positional inputs, keyword inputs and labels of what a loader yields."""
    if isinstance(batch, Tensor):
        return (batch,), {}, None
    if isinstance(batch, Mapping):
        label = next((batch[key] for key in _LABEL_KEYS if key in batch), None)
        inputs = {key: value for key, value in batch.items() if key not in _LABEL_KEYS}
        if not inputs:
            raise InputError(f"a batch with the keys {sorted(batch)} has no inputs for the model")
        return (), inputs, None if label is None else _label_tensor(label)
    if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Tensor):
        return (batch[0],), {}, _label_tensor(batch[1]) if len(batch) > 1 else None
    raise InputError(f"a batch is a {type(batch).__name__}; expected a tensor, (inputs, labels) or a mapping of inputs")


def _label_tensor(labels: Any) -> Int64[Tensor, " n"]:
    try:
        tensor = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels must be whole numbers [n], got {type(labels).__name__}: {error}") from None
    if tensor.ndim != 1 or tensor.is_floating_point() or tensor.is_complex():
        raise InputError(f"labels must be whole numbers [n], got {tensor.dtype} {list(tensor.shape)}")
    return tensor.to("cpu", torch.int64)
