"""`unweave steer`: what latents do to a model's answers and to what a decoder draws."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro
from rich.console import Console
from torch import nn

from unweave.capture.examples import ExampleStream
from unweave.capture.places import Layouts
from unweave.cli.parsing import component, parse, taken, unfilled
from unweave.cli.places import Grid, Places
from unweave.cli.steer_said import say
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.datasets.base import Dataset, DatasetConfig, ImageDataset, Split, TextDataset
from unweave.datasets.digits import Digits
from unweave.datasets.drawn import drawn
from unweave.dictionaries.base import Dictionary
from unweave.formats import load
from unweave.models.base import ModelConfig
from unweave.models.hooks import HookPoints, Side
from unweave.models.mlp import MLP
from unweave.models.pixel_decoder import load_decoder
from unweave.models.places import Prefix
from unweave.models.rows import RowMeaning, to_rows
from unweave.recipes.answers import Answers, answers_to
from unweave.recipes.sources import build_model, open_data, source_of
from unweave.steer import MovedAnswers, Response, Splice, dose_response, moved_answers, splice
from unweave.steer.context import hook_point
from unweave.steer.doses import DoseOp, DoseUnit
from unweave.steer.fidelity import Fidelity, fidelity
from unweave.steer.stage import DOSES
from unweave.store.activations import Activations
from unweave.store.layout import Layout, from_details

Flat = tyro.conf.arg(name="")
Number = TypeVar("Number", int, float)
console = Console(highlight=False, soft_wrap=True, markup=False)
_MANY_ROWS = 200  # examples, where each has many rows
_CODES_AT_ONCE = 1 << 26


def _listed(kind: type[Number], what: str) -> Any:
    """A comma-separated list as one argument."""

    def read(texts: list[str]) -> tuple[Number, ...]:
        try:
            return tuple(kind(text) for text in texts[0].split(","))
        except ValueError:
            raise ValueError(f"{what}, got {texts[0]!r}") from None

    name = kind.__name__.upper()
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{name},{name},...",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(f"{item:g}" for item in value or ())],
    )


Latents = Annotated[tuple[int, ...], _listed(int, "latents are numbers such as 3,17")]
Doses = Annotated[tuple[float, ...], _listed(float, "doses are numbers such as 0,0.5,1,2")]
Tokens = Annotated[tuple[int, ...] | None, _listed(int, "tokens are numbers such as 0,3, or -1 for the last")]


@dataclass(frozen=True, kw_only=True)
class SteerArguments:
    """Flags of `unweave steer`."""

    dictionary: tyro.conf.Positional[str]
    "a dictionary's folder, another library's, or hf://ORG/REPO[/FOLDER]"
    latents: Latents
    "the latents to move, one at a time"
    out: Path
    "folder of the result: response/ (or moved/), splice/ and figures/"
    activations: str | None = None
    "a store that capture or layer left: module, rows and their places, data and model are taken from it"
    doses: Doses = DOSES
    "how much, in increasing order; doses below 0 are written --doses=-1,0,1"
    op: DoseOp = "set"
    "the code becomes the dose (set), grows by it (add), or is multiplied by it (scale)"
    unit: DoseUnit = "max"
    "a dose counts in multiples of the latent's largest code (max), or as it is (value); factors are taken as they are"
    at: str | None = None
    "dotted name of the module; by default the one that the dictionary was trained on"
    rows: RowMeaning = "flatten"
    "what a row is, as it was captured"
    side: Side = "output"
    "what the module gives, or its first input, as it was captured"
    prefix: Prefix = "keep"
    "whether tokens before those of an image's patches gave rows, as it was captured"
    grid: Annotated[Layout | None, Grid] = None
    "places of the module's grid, and tokens before them, where shapes leave it open: 7x7, 7x7+1"
    places: Annotated[tuple[tuple[int, int], ...] | None, Places] = None
    "move rows at these places of the grid only, counted from 0: 3:5,4:6; by default everywhere"
    tokens: Tokens = None
    "move rows of these tokens only: 0,3; --tokens=-1 is the last of each text; by default all"
    decoder: Path | None = None
    "a pixel decoder's folder, to draw the mean picture at each dose"
    data: DatasetConfig = field(default_factory=Digits)
    "the images or texts"
    split: Split = "test"
    "which part of them"
    data_dir: Path | None = None
    "where the data lie, for data sets made of files"
    examples: int | None = None
    "how many of them, drawn at random; by default all, and 200 where an example has many rows"
    model: ModelConfig = field(default_factory=MLP)
    "options of MODEL, where it is no folder"
    controls: int = 20
    "random directions along which rows are moved as far"
    batch_size: int | None = None
    "examples a pass; by default as many as fit"
    seed: int = 0
    "every random choice comes from it"
    overwrite: bool = False
    "replace other artifacts in --out"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


def steer_command(given: list[str], program: str) -> None:
    """Move latents in a model and measure what it answers at each dose, beside random directions."""
    helped = bool({"-h", "--help"} & set(given))
    known: dict[str, Any] = {}
    store = taken(given, "--activations")
    if store is not None:
        known = _known_by(Activations(store))
        known["activations"] = store
    named = taken(given, "--model")
    if named is None and not helped and _positional(given) > (1 if "model" in known else 0):
        named = given.pop(0)
    if named is None and not helped and "model" not in known:
        raise InputError(
            f"which model? {program} MODEL DICTIONARY --latents 3,17 --out DIR, or --activations STORE, which knows "
            f"its model (see {program} --help)"
        )
    if named is not None:
        known["model"] = component(ModelConfig, named)
    default = unfilled(SteerArguments, **known)
    text = (
        f"{steer_command.__doc__}\n\n{program} MODEL DICTIONARY --latents 3,17 --out DIR\n\n"
        f"{program} DICTIONARY --activations STORE --latents 3,17 --out DIR\n\n"
        f"MODEL is the folder of a trained model, or one of: {', '.join(ModelConfig.registry.members())}."
    )
    read = parse(SteerArguments, default, given, program=f"{program} {named or 'MODEL'}", description=text)
    read.runtime.apply()
    found, spliced = _steer(read)
    say(found, spliced, read.out)


def _positional(given: list[str]) -> int:
    """How many words stand before the first flag."""
    return next((place for place, word in enumerate(given) if word.startswith("-")), len(given))


def _known_by(store: Activations) -> dict[str, Any]:
    """What a store says of where its rows come from."""
    config, layout = store.manifest.config, store.layout
    known: dict[str, Any] = {"at": store.hook_name, "rows": config["rows"], "side": config["side"]}
    if layout is not None and layout.prefix_dropped:
        known["prefix"] = "drop"
    if (given := from_details(config.get("layout"))) is not None:
        known["grid"] = given
    source = source_of(store)
    if source is not None:
        known |= {name: getattr(source, name) for name in ("data", "split", "data_dir", "model", "seed")}
    return known


def _steer(read: SteerArguments) -> tuple[Response | MovedAnswers, Splice | Fidelity]:
    device = read.runtime.torch_device()
    whole = open_data(read.data, read.model, read.split, read.data_dir)
    if not isinstance(whole, (ImageDataset, TextDataset)):
        raise InputError("a stream cannot be read again, as every dose must; name the data without streaming")
    model = build_model(read.model, whole, read.seed).to(device)
    sae = load(read.dictionary).to(device)
    answers = _try(model, whole)
    layout, rows = _layout(read, model, sae, whole)
    data = _drawn(read, whole, rows)
    positions = _positions(read, layout)
    size = read.batch_size or max(1, min(512 if rows == 1 else 64, _CODES_AT_ONCE // (rows * sae.d_sae)))
    where: dict[str, Any] = {name: getattr(read, name) for name in ("at", "rows", "side", "overwrite")}
    where |= {"layout": layout, "batch_size": size}
    moves = {name: getattr(read, name) for name in ("latents", "doses", "op", "unit", "controls", "seed")}
    moves["positions"] = positions
    judged = answers.class_names is not None and answers.class_names == list(data.class_names)
    if isinstance(data, TextDataset) or (answers.kind == "vectors" and answers.said):
        if read.decoder is not None:
            raise InputError("a decoder draws pictures of images whose answers are classes; leave --decoder out")
        moved: Response | MovedAnswers = moved_answers(
            model, sae, data, names=answers.names, out=read.out / "moved", **moves, **where
        )
    else:
        moved = dose_response(
            model,
            sae,
            data,
            decoder=None if read.decoder is None else load_decoder(read.decoder).module.to(device),
            labels=data.labels if judged else None,
            class_names=answers.class_names or [str(number) for number in range(answers.width)],
            out=read.out / "response",
            **moves,
            **where,
        )
    if judged:
        return moved, splice(model, sae, data, labels=data.labels, out=read.out / "splice", **where)
    return moved, fidelity(model, sae, data, logits=answers.kind != "vectors", out=read.out / "splice", **where)


def _try(model: nn.Module, data: Dataset) -> Answers:
    """Show the model two examples, so that data of another shape are named before any work is done."""
    try:
        return answers_to(model, data)
    except InputError:
        raise
    except Exception as error:  # a model may fail in any way at images that it was not made for
        what = f"images {list(data.shape)}" if isinstance(data, ImageDataset) else "these texts"
        raise InputError(
            f"the model does not take {what} ({type(error).__name__}: {error}); --data NAME chooses others"
        ) from error


def _layout(read: SteerArguments, model: nn.Module, sae: Dictionary, data: Dataset) -> tuple[Layout | None, int]:
    """How positions lie in an example, found as capture finds it, and how many rows one has at most."""
    name = hook_point(model, sae, read.at)
    device = next((one.device for one in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    few = torch.arange(min(len(data), 8)).split(8)
    batch = next(iter(ExampleStream(data, None, 8, None, getattr(model, "tokenize", None)).ordered(few)))
    inputs = [one.to(device) for one in batch.inputs]
    keywords = {key: value.to(device) for key, value in batch.keywords.items()}
    tensor = HookPoints(model, name, side=read.side).read(*inputs, **keywords)[name]
    plain = isinstance(data, TextDataset) or read.rows not in ("position", "pool")
    layouts = Layouts(model, read.rows, read.grid, "keep" if plain else read.prefix)
    layout = layouts.of(name, tensor, inputs, keywords)
    rows = to_rows(
        tensor, read.rows, examples=len(batch.example), name=name, layout=layout, mask=batch.mask, width=sae.d_in
    )
    each = torch.bincount(rows.example, minlength=1)
    return layout, max(1, int(each.max()))


def _drawn(read: SteerArguments, data: Dataset, rows: int) -> Dataset:
    if read.examples is not None and read.examples < 1:
        raise InputError(f"--examples must be at least 1, got {read.examples}")
    most = read.examples or (len(data) if rows == 1 and isinstance(data, ImageDataset) else _MANY_ROWS)
    if read.examples is None and most < len(data):
        console.print(f"{most:,} of {len(data):,} examples, drawn at random (--examples)")
    return drawn(data, most, read.seed)


def _positions(read: SteerArguments, layout: Layout | None) -> tuple[int, ...] | None:
    """The rows that are moved; None for all."""
    if read.places is None and read.tokens is None:
        return None
    if read.rows != "position":
        raise InputError(f"--places and --tokens are for rows by position, not --rows {read.rows}")
    if read.places is not None and (layout is None or layout.kind != "grid"):
        raise InputError("the rows are tokens, which have no place in an image; name them by --tokens")
    places = [] if layout is None else [layout.position(row, column) for row, column in read.places or ()]
    return (*places, *(read.tokens or ()))
