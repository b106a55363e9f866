"""A recipe's model and layer, once, and many dictionaries of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unweave.analyze import analyze
from unweave.core.config import to_json
from unweave.core.distributed import ranks
from unweave.core.errors import InputError
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary
from unweave.recipes.base import RECIPES, Run, carry_out, default_folder
from unweave.recipes.classifier import ClassifierStudy, capture_layer
from unweave.recipes.grid import Variant
from unweave.recipes.sweep import measure_controls, named, of_all, own, points_of, side_by_side, train_grid
from unweave.recipes.sweep_result import DEAD, EXPLAINED, L0, WIDTH, Published, Setting, Sweep
from unweave.store.rows import RowSource

_CALLED = {"pca": "PCA", "neurons": "raw neurons", "random": "random directions"}
_MOST_NAMED = 4


def sweep_recipe(
    name: str,
    config: Any,
    grid: Sequence[Variant],
    *,
    seeds: Sequence[int] = (0,),
    seed: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    runtime: Runtime | None = None,
) -> tuple[Run, Sweep]:
    """Sweep a recipe's dictionary into a folder: one model, one capture, and every variant under every seed.

    The folder belongs to the recipe's settings and seed; the grid may grow in it, and what is there is not made again.
    Of several processes the first trains the model, all capture, and dictionaries, atlases and controls are dealt out.

    Args:
        name: the recipe.
        config: its configuration; the dictionary and training in it are what the grid was made from.
        grid: the dictionaries.
        seeds: of the dictionaries.
        seed: of the model and everything else.
        out: the folder; by default runs/sweep-RECIPE-FINGERPRINT.
        data_dir: where the user's data lie.
        runtime: device and the like.

    Raises:
        InputError: the recipe is not about one layer and one dictionary of it, or the folder holds something else.
    """
    if not isinstance(config, ClassifierStudy):
        fit = ", ".join(n for n, r in RECIPES.members().items() if issubclass(r.config, ClassifierStudy))
        raise InputError(f"the recipe {name!r} has no single dictionary to sweep; choose from: {fit}")
    run = Run(out or default_folder(f"sweep-{name}", config, seed), seed, data_dir, runtime or Runtime())
    found: list[Sweep] = []
    carry_out(
        run,
        {"recipe": f"sweep {name}", "config": to_json(config), "seed": seed},
        lambda run: found.append(_sweep_layer(name, config, grid, seeds, run)),
        aim={"sweep": list(named(grid, seeds))},
    )
    return run, found[0]


def published(recipe: str, config: ClassifierStudy, rows: RowSource) -> list[Published]:
    """What the recipe's published form reports, where it is about the same layer of the same model."""
    asked = RECIPES[recipe].presets.get("published")
    if asked is None or any(getattr(asked, part) != getattr(config, part) for part in ("data", "model", "fit", "at")):
        return []
    variance = rows.moments().variance
    return [
        Published(name=one.name, l0=one.l0, explained_variance=1 - one.error / variance)
        for one in RECIPES[recipe].reported
    ]


def _sweep_layer(
    recipe: str, config: ClassifierStudy, grid: Sequence[Variant], seeds: Sequence[int], run: Run
) -> Sweep:
    layer = capture_layer(config, run)
    reported = published(recipe, config, layer.train_rows)

    def place(name: str) -> Path:
        return run.folder / "artifacts" / f"sae@{name}"

    trained = train_grid(layer.train_rows, grid, seeds, place, runtime=run.runtime)
    dictionaries = {name: one for name, one in trained.items() if isinstance(one, Dictionary)}
    for name in dictionaries:
        run.place(f"sae@{name}")
        run.place(f"atlas@{name}")

    def analysed(name: str) -> dict[str, float]:
        out = run.artifacts[f"atlas@{name}"]
        atlas = analyze(
            dictionaries[name],
            layer.test_rows,
            images=layer.test,
            analysis=config.analysis,
            seed=run.seed,
            out=out,
        )
        return atlas.metrics

    mine = list(own(dictionaries))
    numbers = side_by_side("Analysing", "dictionaries", analysed, [(name,) for name in mine], run.runtime)
    measured = of_all(dict(zip(mine, numbers, strict=True)))
    for name in dictionaries:
        run.record(measured[name], condition=name)
    points = points_of(grid, seeds, trained, measured)
    beside = measure_controls(points, layer.train_rows, layer.test_rows, place, seed=run.seed, runtime=run.runtime)
    for control in beside:
        run.place(f"sae@{control.condition},k={control.k}")
        run.record(control.metrics, condition=f"{control.condition},k={control.k}")
    found = Sweep(points, beside, "held-out rows", dictionaries, reported)
    if ranks().first:
        found.save(run.folder)
    run.findings += findings(found)
    return found


def findings(found: Sweep) -> list[str]:
    """What the numbers allow to say, and what not, in sentences."""
    settings = [setting for setting in found.settings if setting.points]
    best = max(settings, key=lambda setting: setting.mean(EXPLAINED))
    beside = [f"{_CALLED.get(name, name)} {100 * value:.1f} %" for name, value in best.beside.items()]
    said = [
        f"Of the variance of {found.judged_on}, {best.label} explains the largest share: {_percent(best)} at L0 "
        f"{best.mean(L0):.1f}. At the same L0: {_listed(beside)}."
    ]
    if found.published:
        others = [f"{one.name}: {100 * one.explained_variance:.2f} % at L0 {one.l0:.1f}" for one in found.published]
        said.append(f"As published, over the variance of these rows: {'; '.join(others)}.")
    below = [s for s in settings if any(v >= s.mean(EXPLAINED) for v in s.beside.values())]
    if below:
        which = (
            _listed([s.label for s in below])
            if len(below) <= _MOST_NAMED
            else f"{len(below)} of {len(settings)} settings"
        )
        verb = "explains" if len(below) == 1 else "explain"
        said.append(f"{which} {verb} no more than the best of the controls at the same L0.")
    said.append(_seeds(settings))
    dying = [s for s in settings if s.mean(DEAD) > 0.1 * s.mean(WIDTH)]
    if dying:
        worst = sorted(dying, key=lambda s: s.mean(DEAD) / s.mean(WIDTH), reverse=True)[:_MOST_NAMED]
        shares = _listed([f"{s.label} ({100 * s.mean(DEAD) / s.mean(WIDTH):.0f} %)" for s in worst])
        most = f"{len(dying)} settings, most in {shares}" if len(dying) > len(worst) else shares
        said.append(f"More than a tenth of all latents never fire in {most}.")
    if found.failed:
        first, error = next(iter(found.failed.items()))
        said.append(f"{len(found.failed)} of {len(found.points)} trainings failed: {first}: {error}")
    return said


def _seeds(settings: Sequence[Setting]) -> str:
    """How far apart seeds alone bring the numbers."""
    spreads = [max(values) - min(values) for s in settings if len(values := s.values(EXPLAINED)) > 1]
    if not spreads:
        return "One seed each: how far seeds alone bring two dictionaries apart is not known; --seeds 0,1,2 tells."
    return (
        f"Seeds alone bring the explained variance of a setting up to {100 * max(spreads):.2g} percentage points apart "
        f"({100 * float(sorted(spreads)[len(spreads) // 2]):.2g} in the median): smaller differences between settings "
        "say nothing."
    )


def _percent(setting: Setting) -> str:
    deviation = setting.deviation(EXPLAINED)
    spread = "" if deviation is None else f" (± {100 * deviation:.2f} over {len(setting.points)} seeds)"
    return f"{100 * setting.mean(EXPLAINED):.2f} %{spread}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""
