"""Every stage on small inputs, as functions of a folder of inputs and a folder that they leave something in."""

import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv  # noqa: F401 - loaded before processes are forked
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import unweave.report
from unweave.analyze import Analysis, Atlas, analyze
from unweave.analyze.maps import write_map
from unweave.capture import StreamedRows, capture
from unweave.cli import commands  # noqa: F401 - loaded before processes are forked
from unweave.compare import Comparing, compare
from unweave.core.runtime import Runtime
from unweave.datasets.digits import Digits
from unweave.dictionaries.pca import PCA
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.stored import load
from unweave.dictionaries.topk import TopK
from unweave.formats import export
from unweave.formats.places import keep
from unweave.models.classifier import train_classifier
from unweave.models.fitting import Fit
from unweave.models.mlp import MLP
from unweave.recipes.base import Run, carry_out, execute
from unweave.recipes.digits import DEFAULT
from unweave.recipes.rating import candidates
from unweave.recipes.sweep import sweep
from unweave.steer import dose_response
from unweave.store.activations import Activations
from unweave.study import Study, Studying, make_study
from unweave.train import Job, Training, train, train_several

ALWAYS = Runtime(checkpoint_seconds=0.0, device="cpu")
BRIEF = Training(steps=12, batch_size=32)
RECIPE = replace(DEFAULT, fit=Fit(epochs=1, batch_size=256), training=BRIEF, analysis=Analysis(permutations=19))
_IMAGES = 240


def images() -> Tensor:
    """Digits in [0, 1]."""
    return Digits().load("train").pixels(torch.arange(_IMAGES)).float() / 255


def network() -> nn.Sequential:
    """8 × 8 pixels, 16 and 12 units, 10 classes, with fixed weights."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10))
    with torch.no_grad():
        for number, weights in enumerate(made.parameters()):
            weights.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(number)) / 4)
    return made


def prepare(folder: Path) -> None:
    """The inputs of all stages."""
    labels = Digits().load("train").labels[:_IMAGES]
    for name, at in (("rows", "2"), ("later", "4")):
        capture(network(), images(), labels=labels, at=at, out=folder / name, batch_size=40, shard_bytes=4096)
    train(Activations(folder / "rows"), TopK(d_sae=24, k=3), BRIEF, out=folder / "sae")
    export(load(folder / "sae"), folder / "foreign", format="sparsify")
    for name, config in (("sae", None), ("pca", PCA(k=3))):
        made = load(folder / "sae") if config is None else train(Activations(folder / "rows"), config)
        analyze(
            made,
            Activations(folder / "rows"),
            images=images(),
            analysis=Analysis(permutations=19, live_share=0.0),
            out=folder / f"atlas-{name}",
        )


def _capture(_: Path, out: Path) -> None:
    capture(network(), images(), at="2", out=out / "rows", batch_size=40, shard_bytes=4096)


def _capture_two(_: Path, out: Path) -> None:
    capture(network(), images(), at=["2", "4"], rows="flatten", out=out / "two", batch_size=60, shard_bytes=4096)


def counted_capture(out: Path, at: list[str]) -> int:
    """Capture many small shards, of different numbers of batches at each hook point; how often the model ran."""
    calls: list[None] = []
    net = network()
    with net[0].register_forward_pre_hook(lambda *_: calls.append(None)):
        capture(net, images(), at=at, out=out / "rows", batch_size=6, shard_bytes=1536)
    return len(calls)


def _model(_: Path, out: Path) -> None:
    digits = Digits()
    fit = Fit(epochs=1, batch_size=512)
    train_classifier(MLP(widths=(8,)), fit, digits.load("train"), digits.load("test"), seed=0, out=out / "model")


def _train(inputs: Path, out: Path) -> None:
    train(Activations(inputs / "rows"), TopK(d_sae=24, k=3), BRIEF, seed=1, out=out / "sae", runtime=ALWAYS)


def _train_dense(inputs: Path, out: Path) -> None:
    runtime = replace(ALWAYS, engine="dense")
    train(Activations(inputs / "rows"), ReLU(d_sae=24), BRIEF, seed=1, out=out / "sae", runtime=runtime)


def _fit(inputs: Path, out: Path) -> None:
    train(Activations(inputs / "rows"), PCA(k=3), out=out / "pca", runtime=ALWAYS)


def _train_several(inputs: Path, out: Path) -> None:
    jobs = [Job(dictionary=TopK(d_sae=24, k=k), training=BRIEF, out=out / f"sae-{k}") for k in (2, 3)]
    train_several(Activations(inputs / "rows"), jobs, runtime=ALWAYS)


def stream() -> StreamedRows:
    """The rows that the stage `capture` stores, computed while they are read, six refills a pass."""
    return StreamedRows(network(), images(), at="2", batch_size=40, buffer_bytes=3 * 40 * 16 * 4, sample_rows=120)


def _train_stream(_: Path, out: Path) -> None:
    train(stream(), TopK(d_sae=24, k=3), BRIEF, out=out / "streamed", runtime=ALWAYS)


def _sweep(inputs: Path, out: Path) -> None:
    sweep(Activations(inputs / "rows"), [TopK(d_sae=16, k=k) for k in (2, 3)], BRIEF, out=out / "sweep", runtime=ALWAYS)


def _analyze(inputs: Path, out: Path) -> None:
    analysis = Analysis(permutations=19)
    analyze(load(inputs / "sae"), Activations(inputs / "rows"), images=images(), analysis=analysis, out=out / "atlas")


def _map(inputs: Path, out: Path) -> None:
    write_map(load(inputs / "sae"), method="pca", out=out / "map")


def _compare(inputs: Path, out: Path) -> None:
    rows = (Activations(inputs / "rows"), Activations(inputs / "later"))
    compare(*rows, comparing=Comparing(permutations=19, neighbour_rows=60), out=out / "comparison")


def _steer(inputs: Path, out: Path) -> None:
    latent = int(np.argmax(Atlas(inputs / "atlas-sae").column("rate")))
    options = {"latents": [latent], "doses": [0.0, 1.0], "at": "2", "controls": 3, "resamples": 20}
    dose_response(network(), load(inputs / "sae"), images(), out=out / "response", **options)  # type: ignore[arg-type]


def _study(inputs: Path, out: Path) -> None:
    found = [candidates(name, Atlas(inputs / f"atlas-{name}")) for name in ("sae", "pca")]
    make_study(found, Studying(latents=2, images=2, raters=2, repeats=0, skip=0), out=out / "study")


def _save(inputs: Path, out: Path) -> None:
    load(inputs / "sae").save(out / "saved")


def _keep(inputs: Path, out: Path) -> None:
    """What `unweave pull` and `import` do with what they have fetched: one of our own, one of another library's."""
    keep(inputs / "sae", out / "ours")
    keep(inputs / "foreign", out / "theirs")


def _run(_: Path, out: Path) -> None:
    _carry_out(out, 1.0)


def other_run(_: Path, out: Path) -> None:
    """Another run in the folder of the stage `run`."""
    _carry_out(out, 2.0)


def other_training(inputs: Path, out: Path) -> None:
    """Another dictionary in the place of the stage `train`."""
    train(Activations(inputs / "rows"), TopK(d_sae=24, k=3), BRIEF, seed=2, out=out / "sae", runtime=ALWAYS)


def _carry_out(out: Path, setting: float) -> None:
    def work(run: Run) -> None:
        rows = capture(network(), images(), at="2", out=run.place("rows"), batch_size=120)
        sae = train(rows, TopK(d_sae=16, k=2), BRIEF, out=run.place("sae"), runtime=ALWAYS)
        run.record({"latents": float(sae.d_sae), "nothing": float("nan")})
        run.section("Curves")
        run.show("losses", _figure(sae.history["loss"]), "the loss")
        run.findings.append("A finding.")

    carry_out(Run(out / "run", 0), {"recipe": "a test's", "config": {"a": setting}, "seed": 0}, work)
    unweave.report.build_report(out / "run")


def _figure(values: Sequence[float]) -> Figure:
    """A small one: drawing takes most of a short run's time."""
    figure = Figure(figsize=(1, 1))
    figure.add_axes((0.0, 0.0, 1.0, 1.0)).plot(values)
    return figure


def _recipe(_: Path, out: Path) -> None:
    execute("digits", RECIPE, out=out / "run", runtime=ALWAYS)
    unweave.report.build_report(out / "run")


def rate(inputs: Path, out: Path) -> None:
    """Rate a study from where it stands to the end."""
    _study(inputs, out)
    study = Study(out / "study")
    for rater in study.plan.raters:
        for number, showing in enumerate(study.order(rater)):
            if number not in study.database.done(rater).values:
                value = 1 + (number + len(rater)) % 7
                study.database.rate(rater, number, 0, item=showing.item, repeat=showing.repeat, value=value, at=1.0)
    assert len(study.ratings()) == study.plan.planned
    study.database.close()


def rate_in_little_room(inputs: Path, out: Path, room: int) -> None:
    """Rate on a disk that has room for so many bytes more in any file."""
    _study(inputs, out)
    Study(out / "study").ratings()
    size = max(path.stat().st_size for path in (out / "study").glob("ratings.sqlite*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))
    rate(inputs, out)


STAGES: Mapping[str, Callable[[Path, Path], None]] = {
    "capture": _capture,
    "capture two": _capture_two,
    "model": _model,
    "train": _train,
    "train dense": _train_dense,
    "fit": _fit,
    "train several": _train_several,
    "train stream": _train_stream,
    "sweep": _sweep,
    "analyze": _analyze,
    "map": _map,
    "compare": _compare,
    "steer": _steer,
    "study": _study,
    "save": _save,
    "keep": _keep,
    "run": _run,
    "rate": rate,
}
SLOW = {"recipe": _recipe}
WHOLE = ("capture", "model", "train", "fit", "analyze", "map", "compare", "steer", "study", "save")
"stages that leave one artifact"


def warm_up(inputs: Path, references: Path, names: tuple[str, ...]) -> None:
    """Make the inputs, and do every stage once without a fault: into `references`, a folder each."""
    torch.set_num_threads(1)
    prepare(inputs)
    for name in names:
        STAGES[name](inputs, references / name)
