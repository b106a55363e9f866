"""Everything after encoding, from sparse codes and from dense ones: strongest examples, firing, label histograms.

The dense way is what a matrix of codes [n, d_sae] invites to: `torch.topk` down the columns, comparisons summed over
rows, a product with the one-hot labels. Both sides start from codes and end with the same numbers, which is checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.data import planted
from benchmarks.timing import Side, Spread, ratios, take_turns, threads
from unweave import TopK
from unweave.core.codes import Codes
from unweave.core.seeds import torch_generator
from unweave.metrics.entries import Entries, by_latent
from unweave.metrics.examples import top_examples
from unweave.metrics.labels import label_counts
from unweave.metrics.sparsity import firing
from unweave.store.rows import TensorRows

_CLASSES = 10


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    n: int = 60_000
    d_in: int = 128
    d_sae: int = 1024
    k: int = 32
    top: int = 20
    rounds: int = 7
    threads: Sequence[int] = (1, 2)


@torch.no_grad()
def measure(plan: Plan) -> list[dict[str, object]]:
    """One row a task and number of threads: seconds the sparse way, the dense way, and their ratio."""
    data = planted(plan.d_in, plan.d_sae, 16, n=plan.n, held_out=1)
    dictionary = TopK(d_sae=plan.d_sae, k=plan.k).build(plan.d_in)
    dictionary.prepare(TensorRows(data.train), torch_generator(0, "analysis"))
    codes = dictionary.encode_sparse(data.train)
    dense = codes.dense()
    label = torch.randint(_CLASSES, (plan.n,), generator=torch_generator(0, "labels"))
    _check(codes, dense, label, plan)
    rows = []
    most = torch.get_num_threads()
    for count in (count for count in plan.threads if count <= most):
        print(f"analysis: n {plan.n:,}, d_sae {plan.d_sae:,}, threads {count}", flush=True)
        with threads(count):
            for task, (sparse_way, dense_way) in _tasks(codes, dense, label, plan).items():
                sides = [Side("sparse", sparse_way), Side("dense", dense_way)]
                seconds = take_turns(sides, rounds=plan.rounds, sample_seconds=0.0, warm=1)
                rows.append(
                    {
                        "task": task,
                        "n": plan.n,
                        "d_sae": plan.d_sae,
                        "l0": codes.nnz / codes.n,
                        "threads": count,
                        "sparse_seconds": asdict(Spread.of(seconds["sparse"])),
                        "dense_seconds": asdict(Spread.of(seconds["dense"])),
                        "times_sparse": asdict(Spread.of(ratios(seconds, "sparse")["dense"])),
                        "sparse_mib": (codes.offsets.nbytes + codes.latent.nbytes + codes.value.nbytes) / 2**20,
                        "dense_mib": dense.nbytes / 2**20,
                    }
                )
    return rows


Way = Callable[[], object]


def _tasks(codes: Codes, dense: Tensor, label: Tensor, plan: Plan) -> dict[str, tuple[Way, Way]]:
    """Each task the sparse way and the dense way; grouping the entries by latent counts where all are done together."""
    entries = by_latent(codes)
    names = label.numpy()

    def all_sparse() -> None:
        grouped = by_latent(codes)
        top_examples(grouped, plan.top)
        firing(grouped)
        label_counts(grouped, names, _CLASSES)

    def all_dense() -> None:
        _dense_top(dense, plan.top)
        _dense_firing(dense)
        _dense_labels(dense, label)

    return {
        "top examples": (partial(top_examples, entries, plan.top), partial(_dense_top, dense, plan.top)),
        "firing": (partial(firing, entries), partial(_dense_firing, dense)),
        "label histograms": (partial(label_counts, entries, names, _CLASSES), partial(_dense_labels, dense, label)),
        "together": (all_sparse, all_dense),
    }


def _dense_top(dense: Tensor, most: int) -> tuple[Tensor, Tensor]:
    value, row = dense.topk(most, dim=0)
    return value, row


def _dense_firing(dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count = (dense > 0).sum(0)
    return count, dense.sum(0) / count.clamp_min(1), dense.amax(0)


def _dense_labels(dense: Tensor, label: Tensor) -> Tensor:
    return (dense > 0).float().T @ one_hot(label, _CLASSES).float()


def _check(codes: Codes, dense: Tensor, label: Tensor, plan: Plan) -> None:
    """Both ways have to say the same before either is timed."""
    entries: Entries = by_latent(codes)
    fires, (count, mean, largest) = firing(entries), _dense_firing(dense)
    np.testing.assert_array_equal(fires.count, count.numpy())
    np.testing.assert_allclose(fires.mean, mean.numpy(), rtol=1e-4)
    np.testing.assert_allclose(fires.max, largest.numpy())
    np.testing.assert_array_equal(label_counts(entries, label.numpy(), _CLASSES), _dense_labels(dense, label).numpy())
    top, (value, _) = top_examples(entries, plan.top), _dense_top(dense, plan.top)
    table = np.zeros((plan.d_sae, plan.top), np.float32)
    table[top.latent, top.rank] = top.value
    np.testing.assert_allclose(table, value.T.numpy())
