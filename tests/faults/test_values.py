"""Rows, labels and models that are not as they should be: finite numbers and a right result, or one clear error."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from faulting import ERROR, RIGHT
from torch import Tensor, nn

import unweave as uw
from unweave.analyze.maps import write_map
from unweave.core.errors import InputError
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.store.activations import Activations
from unweave.store.drafts import is_unfinished

Tally = Callable[[str], None]
BRIEF = uw.Training(steps=4, batch_size=8)
PLAIN = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
ROWS: dict[str, Tensor] = {
    "plain": PLAIN,
    "one row": PLAIN[:1],
    "two rows": PLAIN[:2],
    "one column": PLAIN[:, :1].clone(),
    "constant": torch.full((24, 6), 3.0),
    "zeros": torch.zeros(24, 6),
    "some zero rows": PLAIN * (torch.arange(24) % 2)[:, None],
    "a column that varies": torch.cat([PLAIN[:, :1], torch.zeros(24, 5)], 1),
    "duplicates": PLAIN[:1].repeat(24, 1),
    "huge": PLAIN * 1e30,
    "large": PLAIN * 1e18,
    "one huge": torch.cat([PLAIN, PLAIN[:1] * 1e25]),
    "tiny": PLAIN * 1e-30,
    "denormal": PLAIN * 1e-42,
    "NaN": PLAIN.clone().index_fill_(0, torch.tensor([3]), math.nan),
    "Inf": PLAIN.clone().index_fill_(0, torch.tensor([3]), math.inf),
}
LABELS: dict[str, Callable[[int], Tensor | None]] = {
    "none": lambda _: None,
    "one class": lambda n: torch.zeros(n, dtype=torch.int64),
    "an empty class": lambda n: torch.full((n,), 2),
    "three classes": lambda n: torch.arange(n) % 3,
    "a negative class": lambda n: torch.arange(n) - 1,
    "a class without a name": lambda n: torch.full((n,), 4),
}
FITTING = {"jumprelu": {"target": 2.0}, "matryoshka": {"prefixes": (0.5, 1.0)}}


class Net(nn.Module):
    """The rows as they are, then three classes."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.hidden = nn.Identity()
        self.head = nn.Linear(d_in, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x))


def configured(kind: str) -> DictionaryConfig:
    """A small one of a kind."""
    cls = DictionaryConfig.registry[kind]
    names = {one.name for one in dataclasses.fields(cls)}
    options = {"d_sae": 8, "k": 2, **FITTING.get(kind, {})}
    return cls(**{name: value for name, value in options.items() if name in names})  # type: ignore[return-value]


def trained(rows: Tensor, config: DictionaryConfig) -> Dictionary | None:
    """The dictionary, of finite weights and codes; None where the rows were refused."""
    try:
        found = uw.train(rows, config, BRIEF)
    except InputError:
        return None
    finite = rows[rows.isfinite().all(1)]
    held = [*found.state_dict().values(), found.encode(finite), found(finite)]
    assert all(bool(tensor.isfinite().all()) for tensor in held), config
    return found


KINDS = sorted(DictionaryConfig.registry.members())


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_rows_of_some_kinds(kind: str, tally: Tally) -> None:
    for name in list(ROWS)[KINDS.index(kind) % 4 :: 4]:  # each meets a fourth, all four are met by every four
        tally(ERROR if trained(ROWS[name], configured(kind)) is None else RIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_training_on_rows_of_every_kind(kind: str, tally: Tally) -> None:
    for rows in ROWS.values():
        tally(ERROR if trained(rows, configured(kind)) is None else RIGHT)


@pytest.mark.parametrize("options", [{"d_sae": 1, "k": 1}, {"d_sae": 4, "k": 9}], ids=["d_sae 1", "k above d_sae"])
def test_few_latents(options: dict[str, int], tally: Tally) -> None:
    kinds = {"topk": options, "batch-topk": options, "pca": {"k": options["k"]}, "neurons": {"k": options["k"]}}
    for rows in ROWS.values():
        for kind, given in kinds.items():

            def made() -> None:
                trained(rows, DictionaryConfig.registry[kind](**given))  # type: ignore[arg-type]  # noqa: B023

            tally(_right_or_error(made))


def _stages(net: nn.Module, rows: Tensor, store: Activations, sae: Dictionary, folder: Path) -> Iterator[Callable]:
    """What can be done with captured rows and a dictionary."""
    few = uw.Comparing(permutations=19)
    yield lambda: uw.analyze(sae, store, analysis=uw.Analysis(permutations=19)).metrics
    yield lambda: uw.analyze(sae, store, analysis=uw.Analysis(permutations=19)).show(0)
    yield lambda: uw.compare(store, store, comparing=few)
    yield lambda: uw.sweep(store, [uw.TopK(d_sae=8, k=k) for k in (1, 2)], BRIEF).figure()
    yield lambda: write_map(sae, method="pca", out=folder / "map")
    yield lambda: uw.dose_response(net, sae, rows, latents=[0], at="hidden", doses=[0.0, 1.0], controls=2, resamples=9)
    yield lambda: uw.splice(net, sae, rows, at="hidden")
    yield lambda: uw.ablation_effects(net, sae, rows, at="hidden")


@pytest.mark.parametrize("rows", ROWS)
def test_every_stage_on_rows_of_every_kind(rows: str, tmp_path: Path, tally: Tally) -> None:
    given = ROWS[rows]
    net = Net(given.shape[1])
    try:
        store = uw.capture(
            net, given, at="hidden", labels=LABELS["three classes"](len(given)), class_names=list("abcd")
        )
    except InputError:
        tally(ERROR)
        store = None
    sae = trained(given, uw.TopK(d_sae=8, k=2))
    if store is None or sae is None:
        return
    for stage in _stages(net, given, store, sae, tmp_path):
        tally(_right_or_error(stage))


@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_every_kind(labels: str, tally: Tally) -> None:
    names = list("abcd")
    for rows in (PLAIN, PLAIN[:1]):
        sae, label = uw.train(rows, uw.TopK(d_sae=8, k=2), BRIEF), LABELS[labels](len(rows))

        def judged() -> dict[str, float]:
            named = None if label is None else names  # noqa: B023
            store = uw.capture(Net(6), rows, at="hidden", labels=label, class_names=named)  # noqa: B023
            return uw.analyze(sae, store, analysis=uw.Analysis(permutations=19)).metrics  # noqa: B023

        tally(_right_or_error(judged))


def _right_or_error(work: Callable[[], object]) -> str:
    try:
        work()
    except InputError:
        return ERROR
    return RIGHT


class Failing(nn.Module):
    """Does what it is told at its third batch."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.batches, self._then = nn.Identity(), 0, then

    def forward(self, x: Tensor) -> Tensor:
        self.batches += 1
        return self.hidden(self._then(x) if self.batches == 3 else x)


def _raises(_: Tensor) -> Tensor:
    raise RuntimeError("no kernel image is available")


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "raises": (_raises, r"examples 8 to 11.*RuntimeError: no kernel image"),
    "NaN": (lambda x: x * math.nan, "NaN or Inf.*example 8"),
    "Inf": (lambda x: x / 0, "NaN or Inf.*example 8"),
    "another width": (lambda x: x[:, :3], "width 3 after rows of width 6"),
    "fewer rows": (lambda x: x[:2], "examples"),
    "no rows": (lambda x: x[:0], "examples"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_model_that_goes_wrong_in_the_middle(wrong: str, tmp_path: Path, tally: Tally) -> None:
    then, said = WRONG[wrong]
    with pytest.raises(InputError, match=said):
        uw.capture(Failing(then), PLAIN, at="hidden", batch_size=4, shard_bytes=64, out=tmp_path / "rows")
    assert all(is_unfinished(path) for path in tmp_path.iterdir())  # the next one goes on with it
    tally(ERROR)
    whole = uw.capture(Failing(lambda x: x), PLAIN, at="hidden", batch_size=4, out=tmp_path / "rows")
    assert torch.equal(whole.rows(0, 24), PLAIN)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows"]
    tally(RIGHT)


def test_a_stream_that_goes_wrong_in_the_middle(tally: Tally) -> None:
    def stream(last: Tensor) -> Iterator[Tensor]:
        for _ in range(20):
            yield PLAIN
        yield last

    for last in (PLAIN * math.nan, PLAIN * math.inf, PLAIN[:, :2], PLAIN[0], torch.zeros(0, 6), PLAIN.long()):
        with pytest.raises(InputError, match=r"finite|batch 20|NaN"):
            uw.train(stream(last), uw.TopK(d_sae=8, k=2), uw.Training(learning_rate=1e-3))
        tally(ERROR)
