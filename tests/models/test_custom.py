"""A user's own module and weights: found, checked, and never run from a file."""

import os
import pickle
import sys
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from unweave.core.errors import InputError
from unweave.models.custom import Custom, import_callable, load_weights

SOURCE = """
from torch import nn

class Factory:
    @staticmethod
    def small(width=3):
        return nn.Sequential(nn.Linear(2, width), nn.ReLU())

def make(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU())

def not_a_module():
    return 7

def fails():
    raise TypeError("deep inside")

number = 7
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A package in the current folder that is not on sys.path."""
    package = tmp_path / "mynets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "small.py").write_text(SOURCE)
    (package / "broken.py").write_text("from torch import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "mynets"]:
        del sys.modules[name]


def build(**fields) -> nn.Module:
    return Custom(**fields).build((1, 1, 1), 1, torch.Generator())


def test_a_callable_in_the_current_folder_makes_the_module(net):
    assert build(factory="mynets.small:make")[0].out_features == 3
    assert build(factory="mynets.small:make", arguments='{"width": 5}')[0].out_features == 5
    assert build(factory="mynets.small:Factory.small")[0].out_features == 3


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("mynets.small", "package.module:callable"),
        (":make", "package.module:callable"),
        ("mynets.small:", "package.module:callable"),
        (".small:make", "package.module:callable"),
        ("mynets.smal:make", "cannot import 'mynets.smal'"),
        ("mynets.broken:make", "no_such_thing"),
        ("mynets.small:mak", "did you mean 'make'"),
        ("mynets.small:Factory.smal", "did you mean 'small'"),
        ("mynets.small:number", "not callable"),
        ("mynets.small:not_a_module", "gave a int"),
    ],
)
def test_what_is_wrong_with_the_callable_is_said(net, factory, message):
    with pytest.raises(InputError, match=message):
        build(factory=factory)


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '{"widht": 5}'])
def test_arguments_that_the_callable_does_not_take_are_refused(net, arguments):
    with pytest.raises(InputError, match=r"model\.arguments"):
        build(factory="mynets.small:make", arguments=arguments)


def test_an_error_inside_the_callable_is_named_and_not_hidden(net):
    with pytest.raises(InputError, match=r"fails failed: TypeError: .*deep inside") as caught:
        build(factory="mynets.small:fails")
    assert isinstance(caught.value.__cause__, TypeError)


def state() -> dict[str, torch.Tensor]:
    return {"0.weight": torch.arange(6.0).view(3, 2), "0.bias": torch.tensor([1.0, 2.0, 3.0])}


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_weights_of_a_torch_checkpoint(net, key):
    torch.save(state() if key is None else {key: state(), "epoch": 3}, net / "w.pt")
    module = build(factory="mynets.small:make", weights=net / "w.pt")
    assert torch.equal(module[0].weight, state()["0.weight"])
    assert torch.equal(module[0].bias, state()["0.bias"])


def test_weights_of_a_safetensors_file(net):
    safetensors.torch.save_file(state(), net / "w.safetensors")
    assert torch.equal(build(factory="mynets.small:make", weights=net / "w.safetensors")[0].bias, state()["0.bias"])


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch", "pickle", "legacy"])
def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(net, how):
    path, marker = net / "bomb.pt", net / "exploded"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"0.weight": Bomb(marker)}))
    else:
        torch.save({"0.weight": Bomb(marker)}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match=r"bomb\.pt"):
        build(factory="mynets.small:make", weights=path)
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused(net):
    torch.save(nn.Linear(2, 2), net / "w.pt")
    with pytest.raises(InputError, match="save the state dict alone"):
        load_weights(nn.Linear(2, 2), net / "w.pt")


def _zip_without_pickle(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/hello.txt", "hello")


@pytest.mark.parametrize(
    "write",
    [
        lambda p: None,
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(b"no checkpoint at all, only words"),
        lambda p: p.write_bytes(bytes(range(256)) * 4),
        lambda p: p.write_bytes(b"\x80\x02}q\x00."),
        lambda p: p.write_bytes(b"\x80"),
        lambda p: p.write_bytes(b"a"),
        lambda p: p.mkdir(),
        _zip_without_pickle,
        lambda p: (torch.save(state(), p), p.write_bytes(p.read_bytes()[:-40])),
        lambda p: torch.save([1, 2], p),
        lambda p: torch.save({0: torch.zeros(2)}, p),
        lambda p: torch.save({"0.weight": "text", "0.bias": 3}, p),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_file_that_is_no_state_dict_is_named(net, write, name):
    write(net / name)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        load_weights(nn.Sequential(nn.Linear(2, 3)), net / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": torch.zeros(4, 2)}, "size mismatch.*0.weight"),
        ({"0.wieght": torch.zeros(3, 2)}, "0.wieght"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_that_do_not_fit_are_named(net, change, message, suffix):
    path = net / f"w{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)({**state(), **change}, path)
    with pytest.raises(InputError, match=message):
        load_weights(nn.Sequential(nn.Linear(2, 3)), path)


def test_import_callable_finds_what_is_installed():
    assert import_callable("torch.nn:Linear") is nn.Linear


def test_a_file_of_code_is_as_good_as_a_package(tmp_path):
    (tmp_path / "helper.py").write_text("WIDTH = 4\n")
    (tmp_path / "net.py").write_text(
        "import helper\nfrom torch import nn\n\ndef make():\n    return nn.Linear(2, helper.WIDTH)\n"
    )
    assert build(factory=f"{tmp_path / 'net.py'}:make").out_features == 4
    with pytest.raises(InputError, match="there is no file"):
        build(factory=f"{tmp_path / 'gone.py'}:make")


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_a_prefix_that_all_names_share_is_left_out(net, prefix):
    torch.save({f"{prefix}{name}": value for name, value in state().items()}, net / "w.pt")
    assert torch.equal(build(factory="mynets.small:make", weights=net / "w.pt")[0].bias, state()["0.bias"])


def test_what_is_missing_and_what_is_too_much_is_named(net):
    torch.save({"0.weight": torch.zeros(3, 2), "1.weight": torch.zeros(2)}, net / "w.pt")
    with pytest.raises(InputError, match=r"1 are missing \(0\.bias\) and 1 are not of it \(1\.weight\)"):
        build(factory="mynets.small:make", weights=net / "w.pt")


def test_preprocessing_of_ones_own(tmp_path):
    (tmp_path / "net2.py").write_text("from torch import nn\n\ndef make():\n    return nn.Flatten()\n")
    config = Custom(factory=f"{tmp_path / 'net2.py'}:make", size=(2, 4), mean=(0.5,), std=(0.25,))
    made = config.build((0, 0, 0), 0, torch.Generator())
    torch.testing.assert_close(made(torch.full((3, 1, 7, 9), 0.75)), torch.ones(3, 8))
    assert (config.framing().height, config.framing().width, config.framing().fit) == (2, 4, "crop")
    with pytest.raises(InputError, match="must not hold 0"):
        Custom(factory="a:b", std=(0.0,))
