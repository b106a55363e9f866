"""What every dictionary offers, trained or classical."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from unweave.core.codes import Codes
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.core.registry import Component, Registry
from unweave.dictionaries.exchange import CFG, Exchange, cfg_json
from unweave.dictionaries.kernels import Kernels
from unweave.dictionaries.whole import WholeBatch
from unweave.store.artifact import Draft, Identity, existing, read_manifest, write_json, writing
from unweave.store.files import save_table, save_tensors
from unweave.store.rows import RowSource

KIND = "dictionary"
WEIGHTS = "sae_weights.safetensors"
OWN = "unweave.safetensors"
HISTORY = "history.parquet"
RowNorm = Literal["layer_norm", "constant_norm_rescale"]
_ENCODE_BYTES = 64 << 20


@dataclass(frozen=True)
class Step:
    """Where training stands.

    Attributes:
        index: of the step.
        total: steps of the run, where it is known.
        dead: the latents that count as dead.
        known_dead: their numbers as the host knows them, on a device that it would have to wait for: those of an
            earlier step.
        whole: the batch of the step, where this process holds only some rows of it.
    """

    index: int
    total: int | None = None
    dead: Bool[Tensor, " d_sae"] | None = None
    known_dead: Int64[Tensor, " dead"] | None = None
    whole: WholeBatch = WholeBatch()  # noqa: RUF009 - it is frozen

    def dead_latents(self) -> Int64[Tensor, " dead"]:
        """Numbers of the dead latents; none where nobody counts them."""
        if self.known_dead is not None:
            return self.known_dead
        return torch.zeros(0, dtype=torch.int64) if self.dead is None else self.dead.nonzero().squeeze(1)

    def done(self) -> float:
        """Share of the run that lies behind, where its length is known; else 1."""
        return 1.0 if self.total is None else self.index / self.total


@dataclass(frozen=True, eq=False)
class Losses:
    """What one batch costs.

    Attributes:
        parts: the sum to minimise, by name.
        fired: on how many rows each latent is active.
        error: squared length of what is missed of a row, mean over the batch.
        rows: rows of the batch.
    """

    parts: Mapping[str, Float[Tensor, ""]]
    fired: Int[Tensor, " d_sae"]
    error: Float[Tensor, ""]
    rows: int

    @classmethod
    def of(
        cls, parts: Mapping[str, Float[Tensor, ""]], codes: Float[Tensor, "b d_sae"], residual: Float[Tensor, "b d_in"]
    ) -> "Losses":
        """From dense codes and what they miss."""
        error = residual.detach().square().sum() / len(residual)
        return cls(parts, (codes.detach() != 0).sum(0), error, len(codes))

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of the parts."""
        return torch.stack(list(self.parts.values())).sum()


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig(Component, ABC):
    """Base of dictionary configurations."""

    registry: ClassVar[Registry[type[Component]]] = Registry("dictionary", "unweave.dictionaries")

    @abstractmethod
    def build(self, d_in: int) -> "Dictionary":
        """A dictionary of this kind for rows [n, d_in], its weights not yet set.

        Raises:
            InputError: the configuration makes no sense for this width.
        """


class Dictionary(nn.Module, ABC):
    """A decomposition of rows into latents: `encode` [b, d_in] → [b, d_sae], `decode` back.

    Everything that inference needs is a parameter or a buffer, so `state_dict` holds the whole of it.

    Attributes:
        config: what it was built from.
        d_in: width of a row.
        d_sae: number of latents.
        hook_name: dotted name of the module whose output the rows are, where it is known.
        history: what training logged, column by column.
        origin: what is known of where it came from, plain JSON values: `model_name`, `format` it was read in, ...
        row_norm: what each row is normalised by before it is encoded, by numbers of its own; None: rows are taken as
            they are. Where it is set, codes alone are no rows: see `reconstruct` and `scales`.
        trained_by_gradient: whether `prepare` is only the start, or the whole fit.
    """

    trained_by_gradient: ClassVar[bool] = True
    row_norm: RowNorm | None = None

    def __init__(self, config: DictionaryConfig, d_in: int, d_sae: int) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise InputError(f"a dictionary needs at least one input and one latent, got d_in {d_in}, d_sae {d_sae}")
        self.config = config
        self.d_in = d_in
        self.d_sae = d_sae
        self.hook_name = ""
        self.history: dict[str, list[float]] = {}
        self.origin: dict[str, Any] = {}

    @abstractmethod
    def prepare(self, rows: RowSource, generator: torch.Generator) -> None:
        """Set the weights before the first step; for a classical method, fit them."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Codes of rows, dense."""

    @abstractmethod
    def decode(self, codes: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Rows that codes stand for.

        Raises:
            InputError: each row is normalised by its own numbers, which codes do not have: `reconstruct` takes both.
        """

    def reconstruct(self, codes: Float[Tensor, "*b d_sae"], rows: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b d_in"]:
        """What codes stand for in the rows that they are of: `decode(codes)` wherever rows are taken as they are.

        The codes may have been edited since; with those of `encode(rows)` it is the reconstruction.
        """
        return self.decode(codes)

    @abstractmethod
    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row; times the row's `scales`, where each is normalised."""

    def scales(self, rows: Float[Tensor, "*b d_in"]) -> Float[Tensor, "*b 1"]:
        """How many times its direction one unit of a latent adds to each row: 1 where rows are taken as they are."""
        return rows.new_ones(*rows.shape[:-1], 1)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """The reconstruction of rows."""
        return self.reconstruct(self.encode(x), x)

    def loss(self, batch: Float[Tensor, "b d_in"], step: Step) -> Losses:
        """The loss of one batch at one step."""
        raise InputError(f"{type(self).__name__} is fitted in closed form and has no loss")

    def has_sparse_step(self) -> bool:
        """Whether `gradients` is there, so that training need not use autograd."""
        return False

    def gradients(self, batch: Float[Tensor, "b d_in"], step: Step, kernels: Kernels) -> Losses:
        """Write into each parameter's `grad` what `loss(batch, step).total.backward()` would.

        The cost follows the active entries. Parts of the result carry no graph.
        """
        raise InputError(f"{type(self).__name__} has no sparse step; train it with the dense engine")

    def unit_rows(self) -> Mapping[str, float]:
        """Parameters whose rows the optimiser keeps at length 1, and what their learning rate is multiplied with."""
        return {}

    def project_gradients(self) -> None:
        """Called between the gradients and the optimiser's step."""

    def after_step(self, step: Step) -> None:
        """Called after the optimiser's step."""

    def resample(self, step: Step, batch: Float[Tensor, "b d_in"]) -> Int64[Tensor, " latents"] | None:
        """Start dead latents anew, where it is time; returns which, so that the optimiser forgets them too."""
        return None

    def rescale(self, factor: float) -> None:
        """Become the dictionary of rows that are `factor` times as long, with codes that are too."""
        raise InputError(f"{type(self).__name__} cannot be rescaled; train it with scale_inputs off")

    def saelens(self) -> Exchange | None:
        """What it computes in the words of SAELens; None where there are none for it."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, as a dictionary that `config` builds takes it."""
        return self.state_dict()

    def to_inference(self) -> "Dictionary":
        """A frozen copy for use after training."""
        frozen = copy.deepcopy(self).eval()
        return frozen.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        first: Tensor = next(iter(self.state_dict().values()))
        return first.device

    @torch.no_grad()
    def encode_sparse(self, x: Float[Tensor, "b d_in"]) -> Codes:
        """Codes of rows as their active entries; dense codes exist for one chunk of rows at a time only."""
        chunk = max(1, _ENCODE_BYTES // (4 * self.d_sae))
        parts = (Codes.from_dense(self.encode(rows.to(self.device))) for rows in x.split(chunk))
        return Codes.concatenate(parts, self.d_sae)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write weights and configuration as a folder that `load` reads back with the same bits.

        Raises:
            InputError: something else stands in `folder` and `overwrite` is not set.
        """
        inputs = {"weights": hash_module(self)}
        identity = dictionary_identity(self.config, self.d_in, inputs, row_norm=self.row_norm)
        if not existing(Path(folder), identity, overwrite=overwrite):
            with writing(Path(folder), identity, overwrite=overwrite) as draft:
                self.write(draft)
            return
        known = read_manifest(Path(folder), KIND).details.get("hook_name", "")
        if known != self.hook_name:
            raise InputError(f"{folder} holds this dictionary for the hook point {known!r}; overwrite it to change it")

    def write(self, draft: Draft) -> None:
        """Put the weights into an artifact that is being written.

        Where SAELens has words for this dictionary, its folder is one of SAELens' too; what of the state is not in
        those words to the bit stands beside them.
        """
        state, exchange = self.tensors(), self.saelens()
        published = state if exchange is None else exchange.tensors
        save_tensors(draft.folder / WEIGHTS, published)
        if own := {name: value for name, value in state.items() if not _same_bits(value, published.get(name))}:
            save_tensors(draft.folder / OWN, own)
        metadata = {"hook_name": self.hook_name or None, **self.origin}
        cfg = cfg_json(exchange, kind=self.config.kind, d_in=self.d_in, d_sae=self.d_sae, metadata=metadata)
        write_json(draft.folder / CFG, cfg)
        if self.history:
            save_table(draft.folder / HISTORY, self.history)
        draft.details.update(d_in=self.d_in, d_sae=self.d_sae, hook_name=self.hook_name)
        if self.origin:
            draft.details.update(origin=self.origin)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d_in={self.d_in}, d_sae={self.d_sae}, {self.config})"


@torch.no_grad()
def best_gain(dictionary: Dictionary, rows: RowSource, origin: Float[Tensor, " d_in"], *, most: int) -> float:
    """The factor that brings reconstructions closest to the rows in least squares, both seen from `origin`.

    Args:
        dictionary: encodes the rows; its codes' directions make the reconstructions.
        rows: the first `most` of them count, up to a whole block.
        origin: what the dictionary adds to its codes' directions.
        most: rows to read.

    Returns:
        Σ y·ŷ / Σ ‖ŷ‖² for y = x − origin and ŷ = f V; 1 where nothing fires.
    """
    dot, square, seen = 0.0, 0.0, 0
    for block in rows.blocks(max(1, min(4096, _ENCODE_BYTES // (4 * dictionary.d_sae)))):
        on_device = block.to(dictionary.device)
        raw = (dictionary.encode(on_device) @ dictionary.directions()).cpu().double()
        dot += float(((on_device - origin).cpu().double() * raw).sum())
        square += float(raw.square().sum())
        seen += len(block)
        if seen >= most:
            break
    return dot / square if square > 0 else 1.0


def dictionary_identity(
    config: DictionaryConfig,
    d_in: int,
    inputs: Mapping[str, str],
    *,
    training: object = None,
    seed: int | None = None,
    row_norm: RowNorm | None = None,
) -> Identity:
    """Identity of a dictionary's artifact: how it was made, and of what."""
    made = {"dictionary": config, "d_in": d_in, "training": training}
    if row_norm is not None:
        made["row_norm"] = row_norm
    return Identity(kind=KIND, config=made, inputs=inputs, seed=seed)


def _same_bits(value: Tensor, other: Tensor | None) -> bool:
    if other is None or value.dtype != other.dtype or value.shape != other.shape:
        return False
    if value.data_ptr() == other.data_ptr() and value.stride() == other.stride():
        return True
    return torch.equal(*(tensor.contiguous().flatten().view(torch.uint8) for tensor in (value, other)))
