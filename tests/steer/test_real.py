"""Steering on real digits, and the how-to page as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unweave.capture import capture
from unweave.datasets.mnist import Mnist
from unweave.dictionaries.random_directions import RandomDirections
from unweave.dictionaries.topk import TopK
from unweave.steer import ablation_effects, dose_response, splice, steer
from unweave.train import Training, train

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "steer.md"


@pytest.fixture(scope="module")
def mnist(data_dir):
    """A linear layer with a ReLU and its classes, trained on 6,000 digits, and a dictionary of the layer."""
    images = Mnist().load("train", data_dir)
    index = torch.arange(7000)
    x, y = images.pixels(index).float() / 255, images.labels[index]
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 49), nn.ReLU(), nn.Linear(49, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.05, 0.05, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for batch in torch.randperm(6000, generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    rows = capture(model, x[:6000], at="2")
    sae = train(rows, TopK(d_sae=98, k=10), Training(epochs=15, batch_size=128), seed=0)
    random = train(rows, RandomDirections(d_sae=98, k=10), seed=0)
    return model, sae, random, x[6000:], y[6000:]


def test_a_dictionary_keeps_the_loss_and_its_latents_move_the_answers(mnist):
    model, sae, random, x, y = mnist
    kept, control = splice(model, sae, x, y), splice(model, random, x, y, at="2")
    assert kept.model.accuracy > 0.9
    assert kept.recovered_mean > 0.95 > control.recovered_mean
    effects = ablation_effects(model, sae, x, y)
    assert effects.total_loss.max() > 3 * np.abs(effects.total_control).max()
    latent = int(effects.important(most=1)[0])
    response = dose_response(model, sae, x, latents=[latent], controls=10, resamples=100)
    (strongest,) = response.strongest()
    assert strongest.beyond
    moved = response.curve(latent, "logit_change")[:, int(strongest.class_name)]
    assert (np.diff(moved) > 0).all() or (np.diff(moved) < 0).all(), "behind a linear head a response is monotone"
    with torch.no_grad(), steer(model, sae, edits={latent: "ablate"}):
        loss = float(nn.functional.cross_entropy(model(x), y))
    assert loss - kept.model.cross_entropy == pytest.approx(effects.total_loss[latent], abs=1e-5)


@pytest.mark.slow
def test_the_how_to_runs(tmp_path):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", HOW_TO.read_text(), re.DOTALL | re.MULTILINE))
    (tmp_path / "page.py").write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "page.py"], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Steering('relu2', {17: set 5, 3: ablate}")
    assert {"response", "dose.png", "splice.png"} <= {path.name for path in tmp_path.iterdir()}
