"""What the answers of a network are: a choice between classes, the next token of a text, or vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.datasets.base import Dataset
from unweave.models.adopted import Adopted
from unweave.models.hooks import evaluating
from unweave.models.rest import answers_of
from unweave.steer.examples import Examples


@runtime_checkable
class HasVocabulary(Protocol):
    """A network of texts that knows how its tokens look."""

    def vocabulary(self, ids: Sequence[int]) -> list[str]:
        """How tokens look in a text."""
        ...


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answers each example with.

    Attributes:
        kind: `classes`, `tokens` (logits of the next one) or `vectors`.
        width: how many numbers.
        class_names: of the classes; None of other kinds.
        said: whether the network itself says so; else it is taken from the number of answers.
        vocabulary: of the tokens; None of other kinds.
    """

    kind: Literal["classes", "tokens", "vectors"]
    width: int
    class_names: list[str] | None
    said: bool
    vocabulary: Callable[[Sequence[int]], list[str]] | None = None

    @property
    def names(self) -> Sequence[str] | Callable[[Sequence[int]], list[str]] | None:
        """Of the logits: class names, or what names tokens; None of vectors."""
        return self.class_names if self.kind == "classes" else self.vocabulary

    def named(self, answers: Sequence[int]) -> list[str]:
        """Names of some of the logits; none of vectors."""
        if self.class_names is not None:
            return [self.class_names[one] for one in answers]
        return self.vocabulary(answers) if self.vocabulary is not None else []


@torch.no_grad()
def answers_to(module: nn.Module, data: Dataset, *, taught: bool = False) -> Answers:
    """What the network answers examples like these with.

    A network that knows its classes says so (`class_names`, empty where it has none). Where nobody named its classes,
    answers are taken for logits of the data's classes where there are as many of them. A network of texts whose answers
    are as many as its output embeddings gives the next token.

    Args:
        module: the network.
        data: examples of which two are shown to it.
        taught: whether it was trained on the classes of these data.

    Raises:
        InputError: an answer is no vector.
    """
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    first = next(Examples(data, None, None, module).batches(2)).to(device)
    with evaluating(module):
        answers = answers_of(module(first))
    if answers.ndim != 2:
        raise InputError(
            f"the network answers each example with {list(answers.shape[1:])}; it needs one vector for each: wrap "
            "it in a module that gives logits or an embedding"
        )
    width = int(answers.shape[1])
    if taught:
        return Answers("classes", width, list(data.class_names), said=True)
    return kind_of(module, width, data.class_names)


def kind_of(module: object, width: int, class_names: Sequence[str]) -> Answers:
    """What so many numbers of a network mean, as `answers_to` has it.

    Args:
        module: the network.
        width: numbers of an answer.
        class_names: of the data's classes; none where there are none.
    """
    said: list[str] | None = getattr(module, "class_names", None)
    if said and len(said) == width:
        return Answers("classes", width, list(said), said=True)
    if isinstance(module, HasVocabulary) and width == _output_tokens(module):
        return Answers("tokens", width, None, said=True, vocabulary=module.vocabulary)
    if said is None and width == len(class_names) > 1:
        return Answers("classes", width, list(class_names), said=False)
    return Answers("vectors", width, None, said=said is not None)


def _output_tokens(module: object) -> int | None:
    """How many tokens a language model of transformers chooses between."""
    inner = module.inner if isinstance(module, Adopted) else module
    find = getattr(inner, "get_output_embeddings", None)
    weight = getattr(find() if callable(find) else None, "weight", None)
    return None if weight is None else len(weight)
