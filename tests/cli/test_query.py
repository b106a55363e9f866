"""`unweave query` on a run of the embedded digits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from unweave.core.errors import InputError
from unweave.recipes.query import open_run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    digit = (load_digits().images[17] * 255 / 16).round().astype(np.uint8)
    path = tmp_path / "mine.png"
    Image.fromarray(digit).save(path)
    return path


def test_it_shows_latents_and_nearest_images(cli, made: Path, picture: Path, tmp_path: Path) -> None:
    ended = cli(f"query {made / 'run'} {picture} --out {tmp_path / 'figures'} --latents 3 --nearest 5")
    assert ended.code == 0, ended.err
    assert "strongest latents" in ended.out
    assert "nearest images" in ended.out
    assert "explains" in ended.out
    assert (tmp_path / "figures" / "mine.png").is_file()


def test_the_parts_of_a_run_belong_together(made: Path, picture: Path) -> None:
    asked = open_run(made / "run")
    assert asked.atlas is not None
    assert asked.shape == (1, 8, 8)
    found = asked.ask(asked.image(picture).float() / 255, nearest=4)
    images = asked.images(None)
    assert found.similarities[0] > 0.8
    assert len(images) == asked.activations.n
    control = open_run(made / "run", "sae@pca")
    assert control.sae.config.kind == "pca"


def test_wrong_input_is_explained(cli, made: Path, picture: Path, tmp_path: Path) -> None:
    for line, message in {
        f"query {tmp_path} {picture}": "holds no run",
        f"query {made / 'run'} {tmp_path / 'none.png'}": "does not exist",
        f"query {made / 'run'} {picture} --dictionary sae@pcaa": "no dictionary 'sae@pcaa'",
    }.items():
        ended = cli(line)
        assert ended.code == 2
        assert message in ended.err
    with pytest.raises(InputError, match="holds no run"):
        open_run(tmp_path)
