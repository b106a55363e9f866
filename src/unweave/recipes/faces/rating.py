"""The rating study that asks people, drawn and ready to be served."""

from collections.abc import Mapping

from unweave.analyze import Atlas
from unweave.core.errors import InputError
from unweave.core.optional import needs
from unweave.recipes.base import Run
from unweave.recipes.faces.material import Faces

_CONDITIONS = {"sae": "", "neurons": "neurons", "random": "random"}
_NAME = "default"


def tell_study(config: Faces, run: Run, atlases: Mapping[str, Atlas]) -> None:
    """Draw a blind rating study of the dictionary, raw coordinates and random directions, and say how to run it."""
    folder = run.folder / "studies" / _NAME
    try:
        _draw(config, run, atlases)
        drawn = (
            f"A study is drawn in studies/{_NAME} and sealed: `unweave study serve {folder}` prints a link for each "
            f"rater, `unweave study score {folder}` opens the key once all have rated."
        )
    except InputError as error:
        drawn = f"No study was drawn: {error}. `unweave study new {run.folder}` draws one with other settings."
    run.section(
        "Do people find the latents clearer?",
        "Nothing above answers that. The published answer (4.44 ± 1.55 against 3.25 ± 1.44 of 7, 16 grids each, t = "
        f"2.25, p = 0.032) is that of one rater, who wrote the hypothesis. {drawn}",
    )


def _draw(config: Faces, run: Run, atlases: Mapping[str, Atlas]) -> None:
    needs("sqlalchemy", extra="study", what="a rating study")
    from unweave.recipes.rating import candidates  # noqa: PLC0415 - needs sqlalchemy, which an extra brings
    from unweave.study import Studying, make_study  # noqa: PLC0415

    offered = [candidates(name, atlases[condition]) for name, condition in _CONDITIONS.items()]
    make_study(offered, Studying(skip=config.skip), seed=run.seed, out=run.folder / "studies" / _NAME)
