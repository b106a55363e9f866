"""One run's atlases and what belongs to each, opened when they are first asked for."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from unweave.analyze.atlas import KIND as ATLAS
from unweave.analyze.atlas import Atlas
from unweave.app.network import Network
from unweave.app.notes import Notes
from unweave.app.shelf import Contents, Entry, Shelf
from unweave.core.errors import InputError, did_you_mean
from unweave.core.hashing import hash_module
from unweave.datasets.base import Dataset, ImageDataset, images_of
from unweave.dictionaries.base import KIND as DICTIONARY
from unweave.dictionaries.base import Dictionary
from unweave.dictionaries.stored import load
from unweave.models.classifier import KIND as MODEL
from unweave.models.pixel_decoder import KIND as DECODER
from unweave.models.pixel_decoder import PixelDecoder, load_decoder
from unweave.recipes.captured import captured_data, captured_model, images_of_run
from unweave.store.activations import KIND as ACTIVATIONS
from unweave.store.activations import Activations

T = TypeVar("T")
_KEPT = 256
_NOTHING: Any = object()


def condition_of(role: str) -> str:
    """What stands behind the @ of an artifact's role; "" where there is none."""
    return role.rpartition("/")[2].partition("@")[2]


def _decoder(folder: Path) -> PixelDecoder:
    return load_decoder(folder).module


class OpenAtlas:
    """An atlas of a run with its dictionary, its activations and, where they are at hand, its model and images.

    Attributes:
        run: whose it is.
        role: its name in the run.
        atlas: the tables.
    """

    def __init__(self, run: "OpenRun", role: str, folder: Path) -> None:
        self.run, self.role = run, role
        self.atlas = Atlas(folder, verify=False)

    @property
    def condition(self) -> str:
        """What stands behind the @ of its role; "" for the dictionary itself."""
        return condition_of(self.role)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; none where the rows have no labels."""
        return self.atlas.class_names or []

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, made once for this atlas."""
        return self.run.once((self.role, key), make)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of the table of latents."""
        names = self.atlas.latents.column_names
        return self.once("columns", lambda: {name: self.atlas.column(name) for name in names})

    @property
    def dictionary_folder(self) -> Path:
        """Where the dictionary lies whose latents these are.

        Raises:
            InputError: it is not in the run.
        """
        return self.once("dictionary folder", self._dictionary_folder)

    def _dictionary_folder(self) -> Path:
        contents = self.run.contents
        roles = contents.roles(DICTIONARY)
        for role in (role for role in roles if condition_of(role) == self.condition):
            if contents.manifests[role].details.get("d_sae") == self.atlas.d_sae:
                return contents.folders[role]
        for role in roles:
            if hash_module(load(contents.folders[role])) == self.atlas.manifest.inputs["dictionary"]:
                return contents.folders[role]
        raise InputError(f"the dictionary of {self.role!r} is not in {self.run.entry.folder}; put its folder there")

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary.

        Raises:
            InputError: it is not in the run.
        """
        return self.once("dictionary", lambda: load(self.dictionary_folder).eval())

    @property
    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """What one unit of each latent adds to a row.

        Raises:
            InputError: the dictionary is not in the run.
        """
        return self.dictionary.directions().detach()

    @property
    def activations(self) -> Activations:
        """The rows that it was made of.

        Raises:
            InputError: they are not in the run.
        """
        return self.once("activations", self._activations)

    def _activations(self) -> Activations:
        contents = self.run.contents
        for role in contents.roles(ACTIVATIONS):
            if contents.manifests[role].id == self.atlas.manifest.inputs["activations"]:
                return Activations(contents.folders[role], verify=False)
        raise InputError(f"the activations of {self.role!r} are not in {self.run.entry.folder}; put their folder there")

    @property
    def examples(self) -> np.ndarray:
        """Example of each row."""
        places = self.atlas.rows
        return self.once("examples", self.activations.example.numpy) if places is None else places.example

    def _labels(self) -> np.ndarray | None:
        places = self.atlas.rows
        if places is None or places.label is None or not len(places.example):
            return None
        found = np.full(int(places.example.max()) + 1, -1)
        found[places.example] = places.label
        return found

    def label_of_example(self, example: int) -> str | None:
        """Name of an example's class, where it is known."""
        labels = self.once("labels", self._labels)
        known = labels is not None and example < len(labels) and 0 <= labels[example] < len(self.class_names)
        return self.class_names[int(labels[example])] if labels is not None and known else None

    @property
    def images(self) -> ImageDataset:
        """All the images that were captured, whether they have a thumbnail or not.

        Raises:
            InputError: they cannot be had; says why.
        """
        return images_of(self.data)

    @property
    def data(self) -> Dataset:
        """All the images or texts that were captured.

        Raises:
            InputError: they cannot be had; says why.
        """
        return self.once("data", lambda: captured_data(self.run.contents.run, self.activations, self.run.data_dir))

    @property
    def of_texts(self) -> bool:
        """Whether the examples are texts, as far as the atlas tells: it has tokens and no pictures of them."""
        layout = self.atlas.layout
        return layout is not None and layout.kind == "tokens" and self.atlas.thumbnails is None

    @property
    def training_images(self) -> ImageDataset:
        """Images that the model was trained on.

        Raises:
            InputError: they cannot be had; says why.
        """
        return images_of_run(self.run.contents.run, "train", self.run.data_dir)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the model's images.

        Raises:
            InputError: neither the model's artifact nor the data set says.
        """
        contents = self.run.contents
        for role in contents.roles(MODEL):
            if (shape := contents.manifests[role].details.get("shape")) is not None:
                channels, height, width = shape
                return channels, height, width
        return self.images.shape

    @property
    def network(self) -> Network:
        """The model with its hook point.

        Raises:
            InputError: it is not in the run.
        """
        return self.once("network", self._network)

    def _network(self) -> Network:
        contents = self.run.contents
        _, module = captured_model([contents.folders[role] for role in contents.roles(MODEL)], self.activations)
        return Network(module, self.activations, self.dictionary, self.class_names)

    @property
    def decoder(self) -> PixelDecoder | None:
        """The pixel decoder of the hook point, where the run has one."""
        contents, width = self.run.entry.contents(), self.dictionary.d_in
        for role in contents.roles(DECODER):
            details = contents.manifests[role].details
            if details.get("d_in") == width and details.get("hook_name") == self.atlas.hook_name:
                folder = contents.folders[role]
                return self.run.once(("decoder", folder), partial(_decoder, folder))
        return None

    def check(self, latent: int) -> int:
        """The latent's number.

        Raises:
            InputError: there is no such latent.
        """
        self.atlas.check(latent)
        return latent


class OpenRun:
    """A run on the shelf, with what was opened of it.

    Attributes:
        entry: its place on the shelf.
        contents: what it holds.
        data_dir: where its data lie, if not where the run says.
        notes: what people wrote about its latents.
    """

    def __init__(self, entry: Entry, contents: Contents, data_dir: Path | None) -> None:
        self.entry, self.contents = entry, contents
        self.data_dir = data_dir
        self.notes = Notes(entry.folder)
        self._kept: dict[Any, Any] = {}
        self._locks: dict[Any, threading.RLock] = {}
        self._lock = threading.Lock()

    @property
    def atlases(self) -> list[str]:
        """Roles of the atlases: the dictionary's own first, then the controls'."""
        roles = self.contents.roles(ATLAS)
        return sorted(roles, key=lambda role: "@" in role)

    def atlas(self, role: str | None = None) -> OpenAtlas:
        """An atlas by its role; the first by default.

        Raises:
            InputError: there is none of that name, or none at all.
            StoreError: it is damaged.
        """
        if not self.atlases:
            raise InputError(f"{self.entry.slug} has no atlas yet: `unweave analyze` makes one of a dictionary")
        role = self.atlases[0] if role is None else role
        if role not in self.contents.folders or role not in self.atlases:
            raise InputError(f"{self.entry.slug} has no atlas {role!r}: {did_you_mean(role, self.atlases)}")
        return self.once(("atlas", role), lambda: OpenAtlas(self, role, self.contents.folders[role]))

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, made once while the run does not change and others are not asked for more often."""
        with self._lock:
            lock = self._locks.setdefault(key, threading.RLock())
        with lock:
            kept = self._kept.get(key, _NOTHING)
            found: T = make() if kept is _NOTHING else kept
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = found  # last in the order: what was not asked for longest is forgotten first
            for old in list(self._kept)[:-_KEPT]:
                self._kept.pop(old), self._locks.pop(old, None)
        return found


class Library:
    """Everything that the app shows.

    Args:
        shelf: the run folders.
        data_dir: where their data lie, if not where the runs say.
    """

    def __init__(self, shelf: Shelf, data_dir: Path | None = None) -> None:
        self.shelf, self._data_dir = shelf, data_dir
        self._open: dict[str, OpenRun] = {}
        self._lock = threading.Lock()

    def run(self, slug: str) -> OpenRun:
        """A run by its name in addresses, opened anew where it changed on the disk.

        Raises:
            InputError: there is none.
        """
        entry = self.shelf[slug]
        contents = entry.contents()
        with self._lock:
            found = self._open.get(slug)
            if found is None or found.contents is not contents:
                found = self._open[slug] = OpenRun(entry, contents, self._data_dir)
            return found
