"""Dictionaries whose latents are split over ranks: `python rank_split.py FOLDER`."""

import sys
from pathlib import Path

import rank_training as cases

from unweave.core.distributed import ranks
from unweave.core.runtime import Runtime
from unweave.dictionaries.base import Dictionary, DictionaryConfig
from unweave.dictionaries.batch_topk import BatchTopK
from unweave.dictionaries.gated import Gated
from unweave.dictionaries.jumprelu import JumpReLU
from unweave.dictionaries.relu import ReLU
from unweave.dictionaries.relu_kl import ReLUKL
from unweave.dictionaries.topk import TopK
from unweave.store.files import save_tensors
from unweave.train import train

CASES: dict[str, DictionaryConfig] = {
    "topk": TopK(d_sae=37, k=3),
    "topk, few to revive": TopK(d_sae=37, k=3, aux_k=2),
    "batch-topk": BatchTopK(d_sae=37, k=3),
    "jumprelu": JumpReLU(d_sae=37, target=3.0),
    "relu": ReLU(d_sae=37, decoder_norm="free", weigh_by_norm=True),
    "relu-kl": ReLUKL(d_sae=37),
    "gated": Gated(d_sae=37, l1=2.0, aux=0.5),
}


def trained(config: DictionaryConfig, out: Path | None = None) -> Dictionary:
    return train(
        cases.rows(), config, cases.TRAINING, out=out, runtime=Runtime(split_latents=True, checkpoint_seconds=0.0)
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, config in CASES.items():
        out = folder / name if name == "topk" else None
        save_tensors(folder / f"{name}.{ranks().rank}.safetensors", cases.numbers(trained(config, out)))
    ranks().close()
