"""What the training tests run, alone and as several processes: `python rank_training.py FOLDER`."""

import dataclasses
import sys
from pathlib import Path

import torch

from unweave.core.distributed import ranks
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.store.files import save_tensors
from unweave.train import Training, train

BATCH = 64
TRAINING = Training(
    epochs=3, batch_size=BATCH, encoder_precision="float32", dead_window=0.2, dead_firings=1, clip_norm=50.0
)


def rows() -> torch.Tensor:
    """Sparse sums of planted directions; the last batch of an epoch has one row, fewer than there are processes."""
    generator = torch.Generator().manual_seed(7)
    planted = torch.nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=1)
    codes = torch.rand(3 * BATCH + 1, 24, generator=generator) * (
        torch.rand(3 * BATCH + 1, 24, generator=generator) < 0.15
    )
    return codes @ planted + 0.01 * torch.randn(3 * BATCH + 1, 12, generator=generator)


def cases() -> dict[str, tuple[DictionaryConfig, str]]:
    """Name → configuration and engine: every registered kind, by both engines where it has two, and variants."""
    found: dict[str, tuple[DictionaryConfig, str]] = {}
    for kind, member in DictionaryConfig.registry.members().items():
        wanted = {name: value for name, value in {"d_sae": 32, "k": 3}.items() if name in member.__dataclass_fields__}
        config = member.example() if hasattr(member, "example") else member(**wanted)
        found[f"{kind}"] = config, "auto"
        dictionary = config.build(12)
        if dictionary.trained_by_gradient and dictionary.has_sparse_step():
            found[f"{kind} dense"] = config, "dense"
    for kind, changes in {
        "topk": {"resample": 0.25, "aux": 0.0},
        "jumprelu": {"target": None, "l0": 0.1},
        "relu": {"l1_reduction": "sum", "l1": 0.01},
        "relu-faces": {"l1_reduction": "sum"},
        "gelu": {"penalty": "decorrelation"},
    }.items():
        config = dataclasses.replace(found[kind][0], **changes)
        found[f"{kind} {changes}"] = config, "auto"
    return found


def trained(config: DictionaryConfig, engine: str) -> Dictionary:
    seen = rows().abs() if config.kind == "nmf" else rows()
    return train(seen, config, TRAINING, runtime=Runtime(engine=engine))


def numbers(dictionary: Dictionary) -> dict[str, torch.Tensor]:
    history = {f"history.{name}": torch.tensor(column) for name, column in dictionary.history.items()}
    return {**{name: value.clone() for name, value in dictionary.state_dict().items()}, **history}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, (config, engine) in cases().items():
        result = numbers(trained(config, engine))
        save_tensors(folder / f"{name}.{ranks().rank}.safetensors", result)
    ranks().close()
