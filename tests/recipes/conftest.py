"""One small run of `digits` that many tests look at."""

from dataclasses import replace

import pytest

from unweave.analyze import Analysis
from unweave.core.progress import silenced
from unweave.models.fitting import Fit
from unweave.recipes.base import Run, execute
from unweave.recipes.classifier import ClassifierStudy
from unweave.recipes.digits import DEFAULT


@pytest.fixture(scope="session")
def small() -> ClassifierStudy:
    """The recipe's default, trained briefly."""
    training = replace(DEFAULT.training, epochs=8)
    return replace(DEFAULT, fit=Fit(epochs=2, batch_size=32), training=training, analysis=Analysis(permutations=19))


@pytest.fixture(scope="session")
def small_run(small: ClassifierStudy, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; no test may change its folder."""
    with silenced():
        return execute("digits", small, seed=5, out=tmp_path_factory.mktemp("runs") / "small")
