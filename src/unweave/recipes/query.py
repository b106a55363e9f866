"""A picture of one's own, asked of a run: the parts of the run that answer, and what they say."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from matplotlib.figure import Figure
from torch import Tensor, nn

from unweave.analyze.atlas import KIND as ATLAS
from unweave.analyze.atlas import Atlas
from unweave.analyze.query import Query, query
from unweave.core.errors import InputError, did_you_mean
from unweave.core.hashing import hash_module
from unweave.datasets.base import ImageDataset
from unweave.datasets.image_files import read_image
from unweave.dictionaries.base import KIND as DICTIONARY
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.stored import load
from unweave.figures.faces import query_sheet
from unweave.models.classifier import KIND as MODEL
from unweave.recipes.base import RUN
from unweave.recipes.captured import captured_images, captured_model
from unweave.store.activations import KIND as ACTIVATIONS
from unweave.store.activations import Activations
from unweave.store.artifact import read_json, read_manifest


@dataclass(frozen=True, eq=False)
class Asked:
    """The parts of a run that know an image.

    Attributes:
        model: the network whose activations were captured.
        sae: a dictionary of them.
        activations: the held-out ones.
        atlas: of that dictionary on them, where the run has one.
        shape: channels, height and width of the images that the network was made for.
        run: what `run.json` says.
    """

    model: nn.Module
    sae: Dictionary
    activations: Activations
    atlas: Atlas | None
    shape: tuple[int, int, int]
    run: Mapping[str, Any]

    def ask(self, image: Float[Tensor, "c h w"], *, latents: int = 8, nearest: int = 8) -> Query:
        """What the dictionary sees in an image."""
        codes = None if self.atlas is None else self.atlas.codes
        return query(self.model, self.sae, self.activations, image, latents=latents, nearest=nearest, codes=codes)

    def image(self, path: Path) -> UInt8[Tensor, "c h w"]:
        """An image file as the network takes it.

        Raises:
            InputError: the file is missing or no image, or the network's images are not square.
        """
        channels, height, width = self.shape
        if height != width:
            raise InputError(f"the network takes images of {height} × {width}; only squares can be made of a file")
        if not path.is_file():
            raise InputError(f"{path} does not exist")
        return torch.from_numpy(read_image(path, height, channels).copy())

    def images(self, data_dir: Path | None) -> ImageDataset:
        """The captured images.

        Raises:
            InputError: the run does not say which, or those at hand are not the captured ones.
        """
        return captured_images(self.run, self.activations, data_dir)


def open_run(folder: Path, dictionary: str = "sae") -> Asked:
    """Find the parts of a run that a query needs.

    Args:
        folder: of the run.
        dictionary: role of the dictionary, `sae` or `sae@NAME`.

    Raises:
        InputError: there is no run, it has no such dictionary, or lacks the activations or the model.
    """
    if not (folder / RUN).is_file():
        raise InputError(f"{folder} holds no run: it has no {RUN}")
    run = read_json(folder / RUN)
    folders = {role: folder / path for role, path in run.get("artifacts", {}).items()}
    kinds = {role: read_manifest(path).kind for role, path in folders.items()}
    roles = [role for role, kind in kinds.items() if kind == DICTIONARY]
    if dictionary not in roles:
        raise InputError(f"{folder} has no dictionary {dictionary!r}: {did_you_mean(dictionary, roles)}")
    sae = load(folders[dictionary])
    stores = [Activations(folders[role]) for role, kind in kinds.items() if kind == ACTIVATIONS and "test" in role]
    for store in stores:
        if store.d_in == sae.d_in and sae.hook_name in ("", store.hook_name):
            place, module = captured_model([folders[role] for role, kind in kinds.items() if kind == MODEL], store)
            shape = read_manifest(place).details.get("shape") or captured_images(run, store).shape
            channels, height, width = shape
            atlas = _atlas(folders, kinds, sae, store)
            return Asked(module, sae, store, atlas, (channels, height, width), run)
    raise InputError(f"{folder} lacks the held-out activations of {dictionary}")


def _atlas(folders: Mapping[str, Path], kinds: Mapping[str, str], sae: Dictionary, store: Activations) -> Atlas | None:
    """The atlas of a dictionary on a store."""
    wanted = {"dictionary": hash_module(sae), "activations": store.id}
    for role, kind in kinds.items():
        if kind == ATLAS:
            inputs = read_manifest(folders[role]).inputs
            if all(inputs.get(name) == value for name, value in wanted.items()):
                return Atlas(folders[role])
    return None


def sheet(asked: Asked, image: UInt8[Tensor, "c h w"], found: Query, images: ImageDataset | None) -> Figure:
    """The picture, what is nearest to it, and its latents with the images that they are strongest on.

    Args:
        asked: whose latents.
        image: as the network was shown it.
        found: what was found.
        images: the captured ones; without them only the latents' pictures are shown, from the atlas.
    """
    nearest: dict[str, UInt8[np.ndarray, "k c h w"]] = {}
    if images is not None:
        nearest = {
            "nearest in the layer": _pixels(images, found.examples),
            "nearest in codes": _pixels(images, found.examples_by_code),
        }
    latents = {}
    for latent, value in zip(found.latents.tolist(), found.values.tolist(), strict=True):
        pictures = None if asked.atlas is None else asked.atlas.top_images(latent)
        if pictures is not None:
            latents[f"latent {latent} ({value:.3g})"] = pictures[: len(found.examples)]
    return query_sheet(image.numpy(), latents, nearest)


def _pixels(images: ImageDataset, index: Int64[np.ndarray, " k"]) -> UInt8[np.ndarray, "k c h w"]:
    return images.pixels(torch.from_numpy(index)).numpy()
