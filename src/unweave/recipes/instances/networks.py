"""The networks of the recipe `instances`, and what their layers give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from unweave.capture import capture
from unweave.compare import Comparing
from unweave.core.errors import InputError
from unweave.core.progress import progress, silenced
from unweave.core.seeds import derive_seed, torch_generator
from unweave.datasets.base import DatasetConfig, ImageDataset
from unweave.datasets.mnist import Mnist
from unweave.dictionaries.base import DictionaryConfig
from unweave.dictionaries.topk import TopK
from unweave.models.base import ModelConfig
from unweave.models.classifier import evaluate, train_classifier
from unweave.models.custom import load_weights
from unweave.models.fitting import Fit
from unweave.models.hooks import resolve
from unweave.models.tanh import Tanh
from unweave.recipes.base import Run
from unweave.store.activations import Activations
from unweave.train import Training


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Several trainings of one network, compared layer by layer."""

    data: DatasetConfig = field(default_factory=Mnist)
    "the images"
    model: ModelConfig = field(default_factory=Tanh)
    "the network"
    fit: Fit = field(default_factory=lambda: Fit(epochs=2))
    "how each instance is trained"
    instances: int = 5
    "how many are trained, each from its own seed"
    states: tuple[Path, ...] = ()
    "state dicts to take instead of training: .safetensors, or checkpoints that torch reads with weights_only=True"
    layers: tuple[str, ...] = ("tanh0", "tanh1")
    "modules whose outputs are compared"
    names: tuple[str, ...] = ("fc0", "fc1")
    "what these layers are called in metrics and figures"
    judged_images: int = 1000
    "test images, from the first on, on which layers are compared"
    comparing: Comparing = field(default_factory=Comparing)
    "permutations and neighbours of the comparison"
    dictionaries: bool = True
    "train a dictionary of each instance, and ask whether they hold the same latents"
    sae: DictionaryConfig = field(default_factory=lambda: TopK(d_sae=128, k=8))
    "the dictionary, of the first of the layers"
    training: Training = field(default_factory=Training)
    "how it is trained"
    attention: bool = True
    "ask which pixels units and latents look at, and whether these lie in one place"
    dealings: int = 19
    "times that each map's gradients are dealt out again: its null"

    def __post_init__(self) -> None:
        count = len(self.states) or self.instances
        if count < 2:
            raise InputError(f"there is nothing to compare with {count} instance: give instances or states, at least 2")
        if len(self.layers) != len(self.names) or not self.layers:
            raise InputError(f"each layer needs a name: {len(self.layers)} layers, {len(self.names)} names")
        if len(set(self.names)) < len(self.names):
            raise InputError(f"two layers have one name: {', '.join(self.names)}")
        if self.judged_images < 32 or self.dealings < 1:
            got = f"got {self.judged_images} and {self.dealings}"
            raise InputError(f"judged_images must be at least 32 and dealings at least 1, {got}")
        if self.attention and not self.dictionaries:
            raise InputError("attention compares units with latents: switch dictionaries on, or attention off")


@dataclass(frozen=True, eq=False)
class Network:
    """One instance: as trained, and as it was before."""

    name: str
    trained: nn.Module
    untrained: nn.Module
    accuracy: float

    def module(self, condition: str) -> nn.Module:
        """`trained` or `untrained`."""
        return self.trained if condition == "trained" else self.untrained


@dataclass(frozen=True, eq=False)
class Material:
    """What the recipe's parts work on.

    Attributes:
        networks: the instances.
        train: images to fit dictionaries on.
        test: images to judge on.
        test_rows: store of every (layer's name, instance, `trained` or `untrained`).
        train_rows: likewise, of the layer that gets dictionaries; none without them.
    """

    networks: list[Network]
    train: ImageDataset
    test: ImageDataset
    test_rows: Mapping[tuple[str, str, str], Activations]
    train_rows: Mapping[tuple[str, str, str], Activations]


class _Together(nn.Module):
    """Networks side by side, so that one pass over the images reads the layers of all."""

    def __init__(self, networks: list[Network]) -> None:
        super().__init__()
        named = {f"{c}-{n.name}": n.module(c) for c in ("trained", "untrained") for n in networks}
        self.networks = nn.ModuleDict(named)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [network(x) for network in self.networks.values()]


def prepare(config: Instances, run: Run) -> Material:
    """Train the networks, or read them, and capture their layers."""
    train_images = config.data.images("train", run.data_dir)
    test_images = config.data.images("test", run.data_dir)
    if config.judged_images > len(test_images):
        raise InputError(f"judged_images is {config.judged_images:,}, but there are {len(test_images):,} test images")
    resolve(config.model.build(train_images.shape, len(train_images.class_names), torch_generator(0)), config.layers)
    count = len(config.states) or config.instances
    networks = []
    with progress("Training instances" if not config.states else "Reading instances", total=count, unit="") as bar:
        for index in range(count):
            with silenced():
                networks.append(_network(config, run, index, train_images, test_images))
            bar.advance()
    of_test = _captured(config, run, networks, test_images, "test", config.names)
    of_train = _captured(config, run, networks, train_images, "train", config.names[:1]) if config.dictionaries else {}
    return Material(networks, train_images, test_images, of_test, of_train)


def _network(config: Instances, run: Run, index: int, train: ImageDataset, test: ImageDataset) -> Network:
    seed, device = derive_seed(run.seed, "instance", index), run.runtime.torch_device()
    shape, classes = train.shape, len(train.class_names)
    untrained = config.model.build(shape, classes, torch_generator(seed, "model")).to(device).eval()
    if not config.states:
        place = run.place(f"model@{index}")
        made = train_classifier(config.model, config.fit, train, test, seed=seed, out=place, runtime=run.runtime)
        return Network(str(index), made.module, untrained, made.test_accuracy)
    module = config.model.build(shape, classes, torch_generator(seed, "model"))
    load_weights(module, config.states[index])
    module.to(device).eval()
    return Network(str(index), module, untrained, evaluate(module, test)[0])


def _captured(
    config: Instances, run: Run, networks: list[Network], images: ImageDataset, split: str, names: tuple[str, ...]
) -> dict[tuple[str, str, str], Activations]:
    """Stores of the named layers of all networks, trained and untrained, from one pass over the images."""
    at = {
        (name, network.name, condition): f"networks.{condition}-{network.name}.{layer}"
        for condition in ("trained", "untrained")
        for network in networks
        for name, layer in zip(config.names, config.layers, strict=True)
        if name in names
    }
    root = run.folder / "artifacts" / f"activations@{split}"
    stores = capture(_Together(networks), images, at=list(at.values()), out=root, batch_size=2048)
    found = {}
    for (name, network, condition), path in at.items():
        found[name, network, condition] = stores[path]
        run.artifacts[f"activations@{split}-{name}-{condition}-{network}"] = stores[path].folder
    return found
