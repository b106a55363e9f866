"""From a run to a rating study: the atlases of its dictionary and of its controls give the candidates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from jaxtyping import UInt8

from unweave.analyze import Atlas
from unweave.core.errors import InputError, did_you_mean
from unweave.recipes.base import RUN
from unweave.store.artifact import read_json
from unweave.study import Study, Studying, make_study
from unweave.study.drawing import Candidates
from unweave.study.stage import study_identity

STUDIES = "studies"
_DICTIONARY = "sae"
_ROLE = "atlas"


def study_of_run(
    folder: Path, conditions: Sequence[str], studying: Studying | None = None, *, seed: int = 0, out: Path | None = None
) -> Study:
    """Make a rating study of a run's latents, or find it again.

    Args:
        folder: of the run.
        conditions: `sae` is the run's dictionary, every other name a control of that name; the first is compared with
            each of the others.
        studying: sizes and wording.
        seed: decides the drawing and every order.
        out: folder of the study; by default one below `studies` in the run, named after its fingerprint.

    Raises:
        InputError: the run has no such condition, a condition too few latents, or `out` holds something else.
    """
    studying = studying or Studying()
    found = [candidates(name, atlas) for name, atlas in atlases(folder, conditions).items()]
    identity = study_identity({one.condition: one.source for one in found}, studying, seed)
    return make_study(found, studying, seed=seed, out=out or folder / STUDIES / f"rating-{identity.id[:8]}")


def atlases(folder: Path, conditions: Sequence[str]) -> dict[str, Atlas]:
    """The atlas of each condition.

    Raises:
        InputError: the folder holds no run that has ended, or the run no such atlas.
    """
    if not (folder / RUN).is_file():
        raise InputError(f"{folder} holds no run: it has no {RUN}")
    artifacts = read_json(folder / RUN).get("artifacts", {})
    roles = {role.partition("@")[2] or _DICTIONARY: role for role in artifacts if role.partition("@")[0] == _ROLE}
    if not roles:
        raise InputError(f"{folder} has no atlas: its run has not ended, or it is of a recipe that makes none")
    for name in conditions:
        if name not in roles:
            raise InputError(f"{folder} has no condition {name!r}: {did_you_mean(name, roles)}")
    return {name: Atlas(folder / artifacts[roles[name]]) for name in conditions}


def candidates(name: str, atlas: Atlas) -> Candidates:
    """All latents of an atlas, with what the drawing asks about them."""

    def pictures(latent: int) -> UInt8[np.ndarray, "k c h w"]:
        found = atlas.top_images(latent)
        assert found is not None, "an atlas without pictures was let through"
        return found

    if atlas.thumbnails is None:
        raise InputError(f"{atlas.folder} has no pictures to rate: it was made without --data")
    strongest = atlas.examples.filter(pc.equal(atlas.examples["order"], "value"))
    shown = np.bincount(strongest["latent"].to_numpy(), minlength=atlas.d_sae)
    return Candidates(
        condition=name,
        source=atlas.manifest.id,
        latent=np.arange(atlas.d_sae),
        live=np.isin(atlas.column("status"), ["live", "dense"]),
        rate=atlas.column("rate").astype(np.float64),
        shown=shown.astype(np.int64),
        pictures=pictures,
    )
