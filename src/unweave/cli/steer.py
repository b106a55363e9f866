"""`unweave steer`: what latents do to a model's answers and to what a decoder draws."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from unweave.cli.parsing import component, parse, taken, unfilled
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.core.seeds import torch_generator
from unweave.datasets.base import DatasetConfig, ImageDataset, Split, images_of
from unweave.datasets.digits import Digits
from unweave.figures.files import write
from unweave.figures.kept import kept_figure
from unweave.formats import load
from unweave.models.base import ModelConfig
from unweave.models.hooks import Side, evaluating
from unweave.models.mlp import MLP
from unweave.models.pixel_decoder import load_decoder
from unweave.models.rest import answers_of
from unweave.models.rows import RowMeaning
from unweave.recipes.layer.study import class_names_of
from unweave.recipes.sources import build_model, open_data
from unweave.steer import Response, Splice, dose_response, splice
from unweave.steer.fidelity import Fidelity, fidelity
from unweave.steer.stage import DOSES, DoseOp, DoseUnit

Flat = tyro.conf.arg(name="")
Number = TypeVar("Number", int, float)
console = Console(highlight=False, soft_wrap=True, markup=False)


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
        str_from_instance=lambda value: [",".join(f"{item:g}" for item in value)],
    )


Latents = Annotated[tuple[int, ...], _listed(int, "latents are numbers such as 3,17")]
Doses = Annotated[tuple[float, ...], _listed(float, "doses are numbers such as 0,0.5,1,2")]


@dataclass(frozen=True, kw_only=True)
class SteerArguments:
    """Flags of `unweave steer`."""

    dictionary: tyro.conf.Positional[str]
    "a dictionary's folder, another library's, or hf://ORG/REPO[/FOLDER]"
    latents: Latents
    "the latents to move, one at a time"
    out: Path
    "folder of the result: response/, splice/ and figures/"
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
    decoder: Path | None = None
    "a pixel decoder's folder, to draw the mean picture at each dose"
    data: DatasetConfig = field(default_factory=Digits)
    "the images"
    split: Split = "test"
    "which part of them"
    data_dir: Path | None = None
    "where the data lie, for data sets made of files"
    examples: int | None = None
    "how many of the images, drawn at random; all by default"
    model: ModelConfig = field(default_factory=MLP)
    "options of MODEL, where it is no folder"
    controls: int = 20
    "random directions along which rows are moved as far"
    batch_size: int = 512
    "images a pass"
    seed: int = 0
    "every random choice comes from it"
    overwrite: bool = False
    "replace other artifacts in --out"
    runtime: Annotated[Runtime, Flat] = field(default_factory=Runtime)


def steer_command(given: list[str], program: str) -> None:
    """Move latents in a model and measure what it answers at each dose, beside random directions."""
    named = taken(given, "--model")
    if named is None and not {"-h", "--help"} & set(given):
        if not given or given[0].startswith("-"):
            raise InputError(f"which model? {program} MODEL DICTIONARY --latents 3,17 --out DIR (see {program} --help)")
        named = given.pop(0)
    default = unfilled(SteerArguments, **({} if named is None else {"model": component(ModelConfig, named)}))
    text = (
        f"{steer_command.__doc__}\n\n{program} MODEL DICTIONARY --latents 3,17 --out DIR\n\n"
        f"MODEL is the folder of a trained model, or one of: {', '.join(ModelConfig.registry.members())}."
    )
    read = parse(SteerArguments, default, given, program=f"{program} {named or 'MODEL'}", description=text)
    read.runtime.apply()
    found, spliced = _steer(read)
    console.print(_said_of_splice(spliced) if isinstance(spliced, Splice) else _said_of_fidelity(spliced))
    Console(highlight=False).print(_effects(found))
    for latent in found.latents:
        write(found.figure(latent), read.out / "figures", f"latent-{latent}")
    write(_figure(spliced), read.out / "figures", "splice")
    console.print(f"Tables: {found.folder}\nFigures: {read.out / 'figures'}")


def _steer(read: SteerArguments) -> tuple[Response, Splice | Fidelity]:
    device = read.runtime.torch_device()
    images = images_of(open_data(read.data, read.model, read.split, read.data_dir))
    model = build_model(read.model, images, read.seed).to(device)
    sae = load(read.dictionary).to(device)
    decoder = None if read.decoder is None else load_decoder(read.decoder).module.to(device)
    examples, labels = _drawn(images, read.examples, read.seed)
    shared: dict[str, Any] = {name: getattr(read, name) for name in ("at", "rows", "side", "batch_size", "overwrite")}
    answers = _try(model, images)
    names = class_names_of(model, images)
    judged = names == images.class_names  # the labels of other classes than the model's say nothing of its answers
    found = dose_response(
        model,
        sae,
        examples,
        latents=read.latents,
        doses=read.doses,
        op=read.op,
        unit=read.unit,
        decoder=decoder,
        labels=labels if judged else None,
        class_names=[str(number) for number in range(answers)] if names is None else names,
        controls=read.controls,
        seed=read.seed,
        out=read.out / "response",
        **shared,
    )
    if not judged:
        return found, fidelity(model, sae, examples, logits=names is not None, out=read.out / "splice", **shared)
    return found, splice(model, sae, examples, labels=labels, out=read.out / "splice", **shared)


@torch.no_grad()
def _try(model: nn.Module, images: ImageDataset) -> int:
    """Show the model one image, so that data of another shape are named before any work is done; numbers it gives."""
    one = images.pixels(torch.zeros(1, dtype=torch.int64)).float() / 255
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        with evaluating(model):
            return answers_of(model(one.to(device))).shape[-1]
    except Exception as error:  # a model may fail in any way at images that it was not made for
        raise InputError(
            f"the model does not take images {list(one.shape[1:])} ({type(error).__name__}: {error}); --data NAME "
            "chooses others"
        ) from error


def _drawn(images: ImageDataset, count: int | None, seed: int) -> tuple[ImageDataset | Tensor, Tensor]:
    if count is None or count >= len(images):
        return images, images.labels
    if count < 1:
        raise InputError(f"--examples must be at least 1, got {count}")
    index = torch.randperm(len(images), generator=torch_generator(seed, "steered examples"))[:count].sort().values
    return images.pixels(index).float() / 255, images.labels[index]


def _said_of_splice(found: Splice) -> str:
    return (
        f"With the reconstruction in place of the layer, accuracy is {100 * found.spliced.accuracy:.1f} % "
        f"(the model itself: {100 * found.model.accuracy:.1f} %, the mean row: {100 * found.mean.accuracy:.1f} %); "
        f"{100 * found.recovered_mean:.1f} % of the loss against the mean row is recovered, "
        f"{100 * found.recovered_zero:.1f} % against zeros."
    )


def _said_of_fidelity(found: Fidelity) -> str:
    """Where the model answers with other classes than the data's, so that no answer is right or wrong."""
    agreement = ""
    if found.spliced.agreement is not None and found.mean.agreement is not None:
        same, mean = (100 * share for share in (found.spliced.agreement, found.mean.agreement))
        agreement = f"the model gives the same answer to {same:.1f} % of examples (with the mean row: {mean:.1f} %), "
    kept, mean_kept = (  # below 0 answers lie further from the model's own than their mean does
        f"{100 * one.explained:.1f} %" if one.explained > 0 else "none" for one in (found.spliced, found.mean)
    )
    return (
        f"With the reconstruction in place of the layer {agreement}{kept} of the variance of its answers is kept "
        f"(with the mean row: {mean_kept})."
    )


def _figure(spliced: Splice | Fidelity) -> Figure:
    if isinstance(spliced, Splice):
        return spliced.figure()
    kept = {"dictionary": spliced.spliced, "mean row": spliced.mean, "zeros": spliced.zero}
    agreement = {name: one.agreement for name, one in kept.items() if one.agreement is not None}
    return kept_figure({name: one.explained for name, one in kept.items()}, agreement or None)


def _effects(found: Response) -> Table:
    """For each latent the class that it moves most."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("latent", "dose", "class", "logit", "95 % band", "random", ""):
        table.add_column(heading, justify="left" if heading == "class" else "right", no_wrap=True)
    for effect in found.strongest():
        low, high = effect.band
        below, above = effect.control
        table.add_row(
            str(effect.latent),
            f"{effect.dose:g}",
            effect.class_name,
            f"{effect.change:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            f"{below:+.2f} to {above:+.2f}",
            "beyond" if effect.beyond else "within",
        )
    table.caption = (
        f"logit: change of its mean over {found.n:,} examples, with the bootstrap band of the mean; random: middle "
        "95 % of moves of the same length along random directions"
    )
    table.caption_justify = "left"
    return table
