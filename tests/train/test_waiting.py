"""On a GPU a training step asks the device for nothing: seen on a CPU by the operations that would have to wait."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unweave import BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, Runtime, TopK, Training, train
from unweave.dictionaries.base import Dictionary, DictionaryConfig, Step
from unweave.dictionaries.batch_topk import BatchTopKSAE
from unweave.dictionaries.kernels.reference import TorchKernels
from unweave.store.rows import TensorRows
from unweave.train.batches import Batches
from unweave.train.course import Course, Job
from unweave.train.precision import products
from unweave.train.trainer import Trainer
from unweave.train.transfer import Delayed, on_device

WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal", "is_nonzero", "repeat_interleave",
}  # fmt: skip


class Waits(TorchDispatchMode):
    """Counts operations whose result's size or value the host has to know."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if by_mask or (name in WAITING and "output_size" not in (kwargs or {})):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _trainer(config: DictionaryConfig, rows: torch.Tensor) -> Trainer:
    """A trainer as it is on a GPU, with the GPU's kernels, on this machine's CPU."""
    fused = pytest.importorskip("unweave.dictionaries.kernels.fused", reason="Triton is not installed")
    dictionary: Dictionary = config.build(rows.shape[1])
    dictionary.prepare(TensorRows(rows), torch.Generator().manual_seed(0))
    training = Training(steps=100_000, batch_size=len(rows), encoder_precision="float32")
    trainer = Trainer(
        dictionary, training, fused.TritonKernels(), total=100_000, steps_per_epoch=None, scale=1.0, variance=1.0
    )
    trainer._waits, trainer._delayed = False, Delayed(dictionary.d_sae, torch.device("cpu"))
    trainer._where = lambda _: Step(trainer.step, 100_000, trainer._dead(), torch.tensor([1, 3]))
    return trainer


@pytest.mark.skipif(torch.cuda.is_available(), reason="through Triton's interpreter")
@pytest.mark.parametrize(
    ("config", "waits"),
    [
        (TopK(d_sae=16, k=4, aux=1.0), 0),
        (TopK(d_sae=16, k=4, decoder_norm="free"), 0),
        (BatchTopK(d_sae=16, k=4, aux=1.0), 0),
        (Matryoshka(d_sae=16, k=4, aux=1.0), 0),
        (ReLU(d_sae=16), 1),
        (Gated(d_sae=16), 1),
        (JumpReLU(d_sae=16, target=4.0), 1),
    ],
    ids=lambda value: value.kind if isinstance(value, DictionaryConfig) else "",
)
def test_a_step_asks_the_device_for_nothing_but_an_unknown_number_of_entries(config, waits):
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    trainer = _trainer(config, rows)
    trainer.train_batch(rows)
    with Waits() as mode:
        trainer.train_batch(rows)
    if isinstance(trainer.dictionary, BatchTopKSAE):
        mode.seen.remove("_local_scalar_dense")  # its threshold, which it asks for on a CPU alone
    assert len(mode.seen) == waits, mode.seen


def test_padded_entries_give_matryoshka_the_same_gradients():
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    trainers = [_trainer(Matryoshka(d_sae=16, k=4), rows) for _ in range(2)]
    trainers[1]._kernels = TorchKernels()
    for trainer in trainers:
        trainer.train_batch(rows)
    for padded, unpadded in zip(*(trainer.dictionary.parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(padded.grad, unpadded.grad, rtol=1e-4, atol=1e-5)


def test_masks_come_two_steps_late_and_survive_a_checkpoint():
    delayed = Delayed(3, torch.device("cpu"))
    masks = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.bool)
    assert not delayed.exchange(masks[0]).any()
    assert not delayed.exchange(masks[1]).any()
    taken_up = Delayed(3, torch.device("cpu"))
    taken_up.restore(delayed.state())
    for one in (delayed, taken_up):
        assert torch.equal(one.exchange(masks[2]), masks[0])
        assert torch.equal(one.exchange(masks[3]), masks[1])


def test_batches_reach_the_device_in_order():
    batches = [torch.full((2, 2), float(number)) for number in range(5)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert [float(batch[0, 0]) for batch in on_device(iter(batches), device)] == [0, 1, 2, 3, 4]


@pytest.mark.gpu
def test_on_a_gpu_a_killed_training_ends_with_the_same_bits(tmp_path):
    rows = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    training, runtime = Training(steps=60, batch_size=256), Runtime(device="cuda", checkpoint_seconds=0)
    whole = train(rows, BatchTopK(d_sae=256, k=8), training, runtime=runtime)
    job = Job(dictionary=BatchTopK(d_sae=256, k=8), training=training, out=tmp_path / "sae")
    batches = Batches(TensorRows(rows), None, training, 0)
    course = Course(job, batches, runtime)
    with course.at_work():
        for batch in batches.after(0):
            course.take(batch)
            if course.step == 30:
                break
    taken_up = train(rows, BatchTopK(d_sae=256, k=8), training, out=tmp_path / "sae", runtime=runtime)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), taken_up.state_dict().values(), strict=True)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tfloat32", "bfloat16"])
def test_on_a_gpu_products_are_as_exact_as_asked_and_the_setting_is_put_back(precision):
    before = torch.backends.cuda.matmul.allow_tf32
    with products(torch.device("cuda"), precision):
        assert torch.backends.cuda.matmul.allow_tf32 == (precision != "float32")
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_on_a_cpu_tfloat32_is_float32():
    rows = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    exact, other = (
        train(rows, TopK(d_sae=16, k=4), Training(steps=10, batch_size=16, encoder_precision=precision))
        for precision in ("float32", "tfloat32")
    )
    assert torch.equal(exact.W_enc, other.W_enc)
