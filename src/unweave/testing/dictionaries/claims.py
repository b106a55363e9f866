"""What a kind of dictionary claims, and the small example of it that the suite works on."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unweave.core.errors import InputError
from unweave.dictionaries.base import DictionaryConfig

_SIZES = {"d_sae": 32, "k": 3}
_KNOB_K = (1, 3, 6)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What the suite asks of a dictionary beyond what every dictionary must do.

    A kind says what it claims by class attributes of these names: `sparsity` on its configuration, the others on its
    `Dictionary`. What it does not mention has the value below.
    """

    finds_planted: bool = True
    "its directions are those that the data were made of; by default every kind that is trained by gradient claims it"
    planted_bound: float = 0.9
    "what the mean largest cosine of the true directions with those found must reach"
    straight_through: frozenset[str] = frozenset()
    "parameters whose gradient is not the slope of the loss: estimated straight through a step, or held fixed in a part"
    linear_decoder: bool = True
    "decode(a + b) − decode(0) = (decode(a) − decode(0)) + (decode(b) − decode(0))"
    non_negative_rows: bool = False
    "it takes only rows without negative entries"
    sparsity: tuple[str, tuple[Any, ...]] | None = None
    "the option that moves L0, and values of it in the order of rising L0; by default k, where there is one"

    @staticmethod
    def of(config: DictionaryConfig, d_in: int) -> "Claims":
        """What the kind of a configuration claims.

        Raises:
            InputError: `sparsity` names no option of the configuration, or gives fewer than two values.
        """
        kind = type(config.build(d_in))
        names = {field.name for field in dataclasses.fields(config)}
        sparsity = getattr(config, "sparsity", ("k", _KNOB_K) if "k" in names else None)
        if sparsity is not None and (sparsity[0] not in names or len(sparsity[1]) < 2):
            raise InputError(
                f"{type(config).__name__}.sparsity must be an option and at least two values of it in the order of "
                f'rising L0, such as ("k", (2, 4, 8)); got {sparsity!r}'
            )
        return Claims(
            finds_planted=getattr(kind, "finds_planted", kind.trained_by_gradient),
            planted_bound=getattr(kind, "planted_bound", Claims.planted_bound),
            straight_through=frozenset(getattr(kind, "straight_through", ())),
            linear_decoder=getattr(kind, "linear_decoder", Claims.linear_decoder),
            non_negative_rows=getattr(kind, "non_negative_rows", Claims.non_negative_rows),
            sparsity=sparsity,
        )


def example(kind: type[DictionaryConfig]) -> DictionaryConfig:
    """A small configuration of a kind, for rows about 16 wide.

    It is the kind's own, where it has a classmethod `example()`; otherwise d_sae is 32 and k 3, where it has such
    options, and all else as it is by default.
    """
    own: Callable[[], DictionaryConfig] | None = getattr(kind, "example", None)
    if own is not None:
        return own()
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: size for name, size in _SIZES.items() if name in names})
