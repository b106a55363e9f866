"""The capture stage: precision, several hook points in a pass, artifacts, and errors that leave nothing behind."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from unweave.capture import capture
from unweave.core.errors import InputError
from unweave.store.activation_writer import ActivationWriter
from unweave.store.activations import Activations
from unweave.store.drafts import is_draft

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers; counts its calls, and fails at the batch it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) * (index + 1))
        self.calls, self.fails_at = 0, fails_at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("no luck")
        return self.fc2(torch.relu(self.fc1(x)))


def whole(store: Activations) -> Tensor:
    return store.rows(0, store.n)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_are_the_layers_output_in_the_precision_asked_for(dtype):
    net = Net()
    store = capture(net, X, at="fc1", dtype=dtype, batch_size=7)
    kind = getattr(torch, dtype)
    assert whole(store).dtype == kind
    assert torch.allclose(
        whole(store).float(), net.fc1(X).to(kind).float(), rtol=1e-2 if kind != torch.float32 else 1e-6
    )
    assert (store.n, store.d_in, store.hook_name, store.dtype) == (20, 4, "fc1", dtype)
    assert (store.label, store.class_names) == (None, None)


@pytest.mark.parametrize("batch_size", [1, 3, 19, 20, 100])
def test_rows_do_not_depend_on_the_batch_size(batch_size):
    assert torch.allclose(whole(capture(Net(), X, at="fc2", batch_size=batch_size)), Net()(X), atol=1e-6)


def test_several_hook_points_are_captured_in_one_pass():
    net = Net()
    stores = capture(net, X, at=["fc2", "fc1"], batch_size=5, labels=[0] * 20)
    assert net.calls == 4
    assert list(stores) == ["fc1", "fc2"]
    assert torch.allclose(whole(stores["fc1"]), net.fc1(X), atol=1e-6)
    assert torch.allclose(whole(stores["fc2"]), net(X), atol=1e-6)
    assert list(capture(Net(), X, at=["fc*"])) == ["fc1", "fc2"]
    assert list(capture(Net(), X, at=("fc1",))) == ["fc1"]


def test_inputs_of_a_module():
    net = Net()
    assert torch.allclose(whole(capture(net, X, at="fc2", side="input")), torch.relu(net.fc1(X)), atol=1e-6)
    assert torch.equal(whole(capture(net, X, at="fc1", side="input")), X)


def test_a_glob_in_place_of_one_name():
    assert capture(Net(), X, at="*1").hook_name == "fc1"
    with pytest.raises(InputError, match=r"stands for 2 modules.*at=\['fc\*'\]"):
        capture(Net(), X, at="fc*")
    with pytest.raises(InputError, match="did you mean 'fc2' or 'fc1'"):
        capture(Net(), X, at="fc3")


def test_the_whole_model_is_a_hook_point_beside_its_parts(tmp_path):
    stores = capture(Net(), X, at=["", "fc1"], out=tmp_path / "a")
    assert torch.allclose(whole(stores[""]), Net()(X), atol=1e-6)
    assert whole(stores["fc1"]).shape == (20, 4)


def test_a_store_that_is_there_is_used_and_the_model_not_run(tmp_path):
    net = Net()
    first = capture(net, X, at="fc1", out=tmp_path / "a", labels=list(range(20)), shard_bytes=64)
    calls = net.calls
    again = capture(net, X, at="fc1", out=str(tmp_path / "a"), labels=list(range(20)), batch_size=3)
    assert net.calls == calls
    assert again.id == first.id
    assert torch.equal(whole(again), whole(first))
    forced = capture(net, X, at="fc1", out=tmp_path / "a", labels=list(range(20)), overwrite=True)
    assert net.calls > calls
    assert forced.id == first.id


CHANGES = {
    "examples": {"examples": X + 1},
    "labels": {"labels": [1] * 20},
    "hook point": {"at": "fc2"},
    "rows": {"rows": "pool"},
    "side": {"side": "input"},
    "precision": {"dtype": "float16"},
    "mean": {"mean": (0.5,)},
    "std": {"std": (0.5,)},
    "class names": {"class_names": ["a"]},
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_another_capture_in_the_folder_is_refused_and_left_alone(tmp_path, change):
    wanted = {"examples": X, "labels": [0] * 20, "at": "fc1", "out": tmp_path / "a"}
    first = capture(Net(), **wanted)
    with pytest.raises(InputError, match="other settings or inputs"):
        capture(Net(), **{**wanted, **CHANGES[change]})
    assert Activations(tmp_path / "a").id == first.id
    assert capture(Net(), **{**wanted, **CHANGES[change]}, overwrite=True).id != first.id


def test_another_model_in_the_folder_is_refused(tmp_path):
    capture(Net(), X, at="fc1", out=tmp_path / "a")
    other = Net()
    other.fc2.bias.data += 1
    with pytest.raises(InputError, match="other settings or inputs"):
        capture(other, X, at="fc1", out=tmp_path / "a")


def loader(x: Tensor = X) -> DataLoader:
    return DataLoader(TensorDataset(x), batch_size=8)


@pytest.mark.parametrize("at", ["fc1", ["fc1", "fc2"]])
def test_a_loader_is_never_taken_for_what_is_there(tmp_path, at):
    capture(Net(), loader(), at=at, out=tmp_path / "a")
    with pytest.raises(InputError, match="cannot be compared"):
        capture(Net(), loader(), at=at, out=tmp_path / "a")
    capture(Net(), loader(X + 1), at=at, out=tmp_path / "a", overwrite=True)


def test_fingerprints_of_what_loaders_gave_follow_the_content():
    def captured(examples, **options):
        return capture(Net(), examples, at="fc1", **options).id

    assert captured(loader()) == captured(loader()) == captured([X[:8], X[8:]])
    labelled = TensorDataset(X, torch.arange(20)), TensorDataset(X, torch.zeros(20, dtype=torch.int64))
    ids = [
        captured(loader()),
        captured(loader(X + 1)),
        captured(loader(X.flip(0))),
        captured(DataLoader(labelled[0], batch_size=8)),
        captured(DataLoader(labelled[1], batch_size=8)),
        captured(DataLoader(TensorDataset(X), batch_sampler=[[1], [0]])),
        captured(loader(), side="input"),
        captured(X),
    ]
    assert len(set(ids)) == len(ids)


def test_what_exists_and_is_no_store_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no Unweave artifact"):
        capture(Net(), X, at="fc1", out=tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("at", ["fc1", ["fc1", "fc2"]])
def test_a_model_that_fails_in_the_middle_leaves_nothing_but_a_draft(tmp_path, at):
    with pytest.raises(InputError, match="no luck"):
        capture(Net(fails_at=3), X, at=at, batch_size=4, out=tmp_path / "a", shard_bytes=64)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left
    assert all(any(is_draft(above) for above in path.parents) for path in left)
    capture(Net(), X, at=at, out=tmp_path / "a")
    assert not [path for path in tmp_path.rglob("*") if is_draft(path)]


@pytest.mark.parametrize(("bad", "dtype"), [(float("nan"), "float32"), (float("inf"), "bfloat16"), (1e5, "float16")])
@pytest.mark.parametrize("rows", ["flatten", "position"])
def test_values_that_cannot_be_stored_name_the_example(bad, dtype, rows):
    x = torch.rand(20, 4, 3)
    x[13, 2, 1] = bad
    x[17, 0, 0] = -bad  # +Inf and −Inf in one batch must not cancel
    with pytest.raises(
        InputError, match=rf"'0' gives NaN or Inf \({dtype}\) for . rows of a batch, first for example 13"
    ):
        capture(nn.Sequential(nn.Identity()), x, at="0", rows=rows, dtype=dtype, batch_size=10)
    order = [[17, 3], [4, 13]]
    with pytest.raises(InputError, match="first for example 17"):
        capture(
            nn.Sequential(nn.Identity()),
            DataLoader(TensorDataset(x), batch_sampler=order),
            at="0",
            rows=rows,
            dtype=dtype,
        )


def test_large_values_that_fit_are_stored():
    x = torch.full((6, 50), 6e4)
    assert torch.equal(
        whole(capture(nn.Sequential(nn.Identity()), x, at="0", dtype="float16")).float(), x.half().float()
    )
    x = torch.full((6, 50), 3e38)
    assert torch.equal(whole(capture(nn.Sequential(nn.Identity()), x, at="0")), x)


@pytest.mark.parametrize("shard_bytes", [1, 16, 80, 96, 10_000])
@pytest.mark.parametrize("batch_size", [1, 6, 20])
def test_shard_boundaries_change_nothing(tmp_path, shard_bytes, batch_size):
    labels = torch.arange(20) % 3
    store = capture(
        Net(), X, at="fc1", labels=labels, batch_size=batch_size, shard_bytes=shard_bytes, out=tmp_path / "a"
    )  # fmt: skip
    batches = max(1, shard_bytes // (16 * batch_size))  # a shard holds whole batches
    assert len(list((tmp_path / "a").glob("shard-*"))) == -(-20 // min(20, batches * batch_size))
    assert torch.allclose(whole(store), Net().fc1(X), atol=1e-6)
    assert torch.equal(store.example, torch.arange(20))
    assert torch.equal(store.label, labels)


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_a_temporary_store_goes_with_the_objects():
    stores = capture(Net(), X, at=["fc1", "fc2"])
    folders = [store.folder for store in stores.values()]
    kept, rows = stores["fc2"], whole(stores["fc1"])
    gone = weakref.ref(stores.pop("fc1"))
    del stores
    gc.collect()
    assert gone() is None
    assert torch.equal(whole(kept)[:, 0], whole(Activations(folders[1]))[:, 0])
    del kept
    gc.collect()
    assert not any(folder.exists() for folder in folders)
    assert rows.isfinite().all()


def test_a_failed_temporary_capture_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match="no luck"):
        capture(Net(fails_at=1), X, at="fc1")
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_images_are_normalised_by_channel():
    images = torch.rand(6, 3, 2, 2)
    mean, std = (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)
    shape = (1, 3, 1, 1)
    expected = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    same = nn.Sequential(nn.Identity())
    assert torch.allclose(whole(capture(same, images, at="0", mean=mean, std=std)), expected.flatten(1))
    assert torch.allclose(whole(capture(same, images, at="0", std=(2.0,))), images.flatten(1) / 2)
    assert torch.allclose(whole(capture(same, images, at="0", mean=(0.5,))), images.flatten(1) - 0.5)
    assert torch.allclose(whole(capture(same, X, at="0", mean=(1.0, 2.0, 3.0))), X - torch.tensor([1.0, 2.0, 3.0]))
    assert whole(capture(same, images.double(), at="0", mean=mean)).shape == (6, 12)


def test_a_half_precision_model_gets_normalised_halves():
    model = nn.Sequential(nn.Conv2d(3, 2, 1)).to(torch.bfloat16)
    store = capture(model, torch.rand(2, 3, 2, 2).bfloat16(), at="0", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert whole(store).shape == (2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean has 2 numbers"),
        ({"std": (0.1, 0.2, 0.3)}, "std has 3 numbers"),
        ({"std": (0.0,)}, "must not hold 0"),
        ({"examples": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "mean": (0.5,)}, "mean and std are for floats"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        capture(nn.Sequential(nn.Identity()), at="0", **{"examples": torch.rand(2, 1, 2, 2), **options})


@pytest.mark.parametrize("side", ["input", "output"])
def test_a_loader_that_fills_one_buffer_again_and_again(side):
    buffer = torch.empty(4, 3)

    def batches():
        for start in range(0, 20, 4):
            yield buffer.copy_(X[start : start + 4])

    assert torch.equal(whole(capture(nn.Sequential(nn.Identity()), batches(), at="0", side=side)), X)


def test_first_tokens_do_not_keep_all_tokens_in_memory(monkeypatch):
    kept = []
    add = ActivationWriter.add
    monkeypatch.setattr(ActivationWriter, "add", lambda self, block: (kept.append(block.activations), add(self, block)))
    capture(nn.Sequential(nn.Identity()), torch.rand(6, 50, 3), at="0", rows="cls", batch_size=2)
    assert [rows.untyped_storage().nbytes() for rows in kept] == [2 * 3 * 4] * 3
