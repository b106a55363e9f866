"""What a run's activations were captured from: the images and the model, found again from what the run says."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from unweave.core.config import from_json
from unweave.core.errors import InputError
from unweave.core.hashing import hash_module
from unweave.datasets.base import Dataset, DatasetConfig, ImageDataset, Split, images_of
from unweave.datasets.drawn import drawn
from unweave.models.base import ModelConfig
from unweave.models.classifier import load_model
from unweave.recipes.sources import source_of
from unweave.store.activations import Activations


def images_of_run(run: Mapping[str, Any], split: Split, data_dir: Path | None = None) -> ImageDataset:
    """One split of a run's images, as `data_of_run`.

    Raises:
        InputError: as there; or they are texts.
    """
    return images_of(data_of_run(run, split, data_dir))


def data_of_run(run: Mapping[str, Any], split: Split, data_dir: Path | None = None) -> Dataset:
    """One split of a run's images or texts.

    Args:
        run: what `run.json` says.
        split: train or test.
        data_dir: where they lie; by default where they lay when the run was made.

    Raises:
        InputError: the run does not say which they were, or they are not where they should be.
    """
    config = run.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    if data is None:
        raise InputError("the run does not say what was captured")
    said = run.get("data_dir")
    lies = data_dir or (Path(said) if isinstance(said, str) else None)
    asked = from_json(DatasetConfig, data, where="run.json: data")
    model = config.get("model") if isinstance(config, Mapping) else None
    framing = None if model is None else from_json(ModelConfig, model, where="run.json: model").framing()
    return asked.for_model(framing).load(split, lies)


def captured_images(run: Mapping[str, Any], activations: Activations, data_dir: Path | None = None) -> ImageDataset:
    """The images that activations were captured of, as `captured_data`.

    Raises:
        InputError: as there; or they are texts.
    """
    return images_of(captured_data(run, activations, data_dir))


def captured_data(run: Mapping[str, Any], activations: Activations, data_dir: Path | None = None) -> Dataset:
    """The images or texts that activations were captured of.

    Args:
        run: what `run.json` says.
        activations: of that run.
        data_dir: where the images lie; by default where they lay when the run was made.

    Raises:
        InputError: the run does not say which they were, or those at hand are others.
    """
    if not isinstance(run.get("config"), Mapping) and (source := source_of(activations)) is not None:
        return source.captured(activations, data_dir)  # a store of its own, not of a run
    wanted = activations.manifest.inputs.get("examples")
    splits: tuple[Split, Split] = ("test", "train")
    for split in splits:
        whole = data_of_run(run, split, data_dir)
        for some in (whole, _drawn_by(run, whole)):
            if some.id == wanted:
                return some
    raise InputError("the examples are not those that were captured; give their folder with --data-dir")


def _drawn_by(run: Mapping[str, Any], data: Dataset) -> Dataset:
    """Those of the examples that a run drew, where it looks at a part of them (`examples` in its configuration)."""
    most, seed = run["config"].get("examples"), run.get("seed")
    if not isinstance(most, int) or not isinstance(seed, int):
        return data
    return drawn(data, most, seed)


def captured_model(models: Iterable[Path], activations: Activations) -> tuple[Path, nn.Module]:
    """The model whose activations were captured, and its folder.

    Args:
        models: folders of the models that may be it.
        activations: what it gave.

    Raises:
        InputError: it is none of them.
    """
    for folder in models:
        module = load_model(folder).module
        if hash_module(module) == activations.manifest.inputs.get("model"):
            return folder, module
    source = source_of(activations)
    if source is not None:
        module = source.build(source.dataset()).eval()
        if hash_module(module) == activations.manifest.inputs.get("model"):
            return activations.folder, module
        raise InputError("the model whose activations these are has other weights by now, so it cannot be asked")
    raise InputError("the model whose activations these are is not in the run, so it cannot be asked")
