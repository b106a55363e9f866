"""The grid of a sweep: which dictionaries, trained how, and what to call them."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unweave.core.config import from_json, to_json
from unweave.core.errors import InputError, did_you_mean
from unweave.dictionaries.base import DictionaryConfig
from unweave.train import Training

KIND = "kind"
_SECTIONS = {"sae": "the dictionary", "training": "its training"}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A dictionary and its training.

    Attributes:
        dictionary: what is trained.
        training: how.
        options: what sets it apart from the sweep's others: value by option, the dictionary's kind under `kind`.
    """

    dictionary: DictionaryConfig
    training: Training
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its options in words: "k=4", or "topk,k=4" where kinds differ."""
        return ",".join(str(value) if option == KIND else f"{option}={value}" for option, value in self.options.items())


@dataclass(frozen=True)
class Axis:
    """An option and the values it takes, as they were written: `section` is "sae" or "training"."""

    section: str
    option: str
    values: tuple[str, ...]

    @property
    def flag(self) -> str:
        """What the command line calls it."""
        return f"--{self.section}.{self.option.replace('_', '-')}"


def variants(dictionaries: Sequence[DictionaryConfig], trainings: Sequence[Training]) -> list[Variant]:
    """Every dictionary with every training, named by the options in which they differ.

    Raises:
        InputError: two dictionaries, or two trainings, are the same.
    """
    for what, given in (("dictionaries", dictionaries), ("trainings", trainings)):
        if len(set(given)) < len(given):
            raise InputError(f"two of the {what} are the same; name each once, and use `seeds` to repeat")
    kinds = {dictionary.kind for dictionary in dictionaries}
    found = []
    for dictionary in dictionaries:
        alike = [other for other in dictionaries if other.kind == dictionary.kind]
        options = {KIND: dictionary.kind} if len(kinds) > 1 else {}
        options.update(_differing(dictionary, alike))
        for training in trainings:
            named = {**options, **_differing(training, trainings)}
            found.append(Variant(dictionary=dictionary, training=training, options=named))
    return found


def _differing(config: Any, others: Sequence[Any]) -> dict[str, Any]:
    names = [item.name for item in dataclasses.fields(config)]
    return {name: getattr(config, name) for name in names if len({getattr(other, name) for other in others}) > 1}


def grid(dictionaries: Sequence[DictionaryConfig], training: Training, axes: Sequence[Axis]) -> list[Variant]:
    """The product of all axes: for each kind of those that it has.

    Args:
        dictionaries: one of each kind.
        training: how they are trained.
        axes: options of dictionaries or the training, with their values.

    Raises:
        InputError: no kind has an option, a value cannot be read, or a combination makes no sense; it names the flag.
    """
    for axis in axes:
        _refuse_unknown(axis, dictionaries, training)
    found = []
    for dictionary in dictionaries:
        chosen = [axis for axis in axes if axis.section == "training" or axis.option in _options(dictionary)]
        of_kind = {KIND: dictionary.kind} if len(dictionaries) > 1 else {}
        for texts in itertools.product(*(axis.values for axis in chosen)):
            found.append(_variant(dictionary, training, of_kind, list(zip(chosen, texts, strict=True))))
    return list(_each_once(found))


def _variant(
    dictionary: DictionaryConfig, training: Training, options: Mapping[str, Any], taken: Sequence[tuple[Axis, str]]
) -> Variant:
    made: dict[str, Any] = {"sae": dictionary, "training": training}
    for section, config in made.items():
        here = [(axis, text) for axis, text in taken if axis.section == section]
        values = {axis.option: None if text.lower() == "none" else text for axis, text in here}
        try:
            made[section] = from_json(type(config), {**_filled(config), **values}, where="")
        except InputError as error:
            raise _blamed(error, here, dictionary.kind) from None
    read = {axis.option: getattr(made[axis.section], axis.option) for axis, _ in taken}
    return Variant(dictionary=made["sae"], training=made["training"], options={**options, **read})


def _blamed(error: InputError, taken: Sequence[tuple[Axis, str]], kind: str) -> InputError:
    """The error with the flag that is to blame, or all of them where it is their combination."""
    said = str(error).lstrip(".: ")
    for axis, _ in taken:
        if said.startswith(f"{axis.option}: "):
            return InputError(f"{axis.flag}: {said.partition(': ')[2]}")
    return InputError(f"{' '.join(f'{axis.flag} {text}' for axis, text in taken) or f'--sae {kind}'}: {said}")


def _filled(config: Any) -> dict[str, Any]:
    """A configuration's JSON without what the command line has left open."""
    known = {f.name for f in dataclasses.fields(config) if not _is_open(getattr(config, f.name))}
    return {name: value for name, value in to_json(config).items() if name in known or name == KIND}


def _is_open(value: Any) -> bool:
    return type(value).__module__.startswith("tyro.")


def _options(config: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(config)]


def _refuse_unknown(axis: Axis, dictionaries: Sequence[DictionaryConfig], training: Training) -> None:
    owners: Sequence[Any] = dictionaries if axis.section == "sae" else [training]
    known = {option for owner in owners for option in _options(owner)}
    if axis.option not in known:
        kinds = ", ".join(dictionary.kind for dictionary in dictionaries)
        whose = f"{_SECTIONS[axis.section]} ({kinds})" if axis.section == "sae" else _SECTIONS[axis.section]
        raise InputError(f"{axis.flag}: {whose} has no such option; {did_you_mean(axis.option, known)}")


def _each_once(found: Sequence[Variant]) -> Iterator[Variant]:
    """A value that was written twice, or in two ways, counts once."""
    names: set[str] = set()
    for variant in found:
        if variant.name not in names:
            names.add(variant.name)
            yield variant
