"""What every artifact about latents at several doses says of itself."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from unweave.core.errors import InputError
from unweave.store.artifact import Manifest, read_manifest
from unweave.store.scratch import Scratch

_LABELS = {
    ("set", "max"): "set to, × its largest code",
    ("set", "value"): "code set to this",
    ("add", "max"): "added, × its largest code",
    ("add", "value"): "added to the code",
    ("scale", "factor"): "code multiplied by",
}


@dataclass(frozen=True, eq=False)
class Dosed:
    """An artifact about some latents at several doses.

    Attributes:
        folder: the artifact.

    Raises:
        StoreError: the folder holds something else, or is damaged.
    """

    kind: ClassVar[str]
    folder: Path
    scratch: Scratch | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        _ = self.manifest

    @cached_property
    def manifest(self) -> Manifest:
        """What it was made of."""
        return read_manifest(self.folder, self.kind, verify=True)

    @property
    def latents(self) -> list[int]:
        """The latents that were moved."""
        return [int(latent) for latent in self.manifest.config["latents"]]

    @property
    def doses(self) -> list[float]:
        """The doses, in the unit of `unit`."""
        return [float(dose) for dose in self.manifest.config["doses"]]

    @property
    def op(self) -> str:
        """What was done with a dose: set, add or scale."""
        return str(self.manifest.config["op"])

    @property
    def unit(self) -> str:
        """`max`: multiples of the latent's largest code on the examples; `value`: codes; `factor`."""
        return str(self.manifest.config["unit"])

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.manifest.details["examples"])

    @property
    def _label(self) -> str:
        """What an axis of doses is called."""
        return _LABELS[self.op, self.unit]

    def _of_doses(self, table: pa.Table, latent: int, column: str) -> Float[np.ndarray, "doses k"]:
        """A column of a table for one latent; k rows for each dose.

        Raises:
            InputError: the latent was not moved, or there is no such column.
        """
        if column not in table.column_names:
            raise InputError(f"there is no column {column!r}; choose from: {', '.join(table.column_names)}")
        values = np.asarray(table[column], np.float64).reshape(len(self.latents), len(self.doses), -1)
        return np.asarray(values[self._place(latent)])

    def _place(self, latent: int) -> int:
        if latent not in self.latents:
            raise InputError(f"latent {latent} was not moved; these were: {', '.join(map(str, self.latents))}")
        return self.latents.index(latent)
