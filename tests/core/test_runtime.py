import pytest
import torch
from jaxtyping import TypeCheckError

from unweave.core.errors import InputError
from unweave.core.runtime import Runtime


@pytest.fixture
def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def _two_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("_no_accelerator")
def test_auto_is_the_cpu_where_there_is_nothing_else() -> None:
    assert Runtime().torch_device() == torch.device("cpu")


@pytest.mark.usefixtures("_two_cuda_devices")
def test_auto_takes_cuda_where_there_is_one() -> None:
    assert Runtime().torch_device() == torch.device("cuda")


@pytest.mark.usefixtures("_two_cuda_devices")
def test_one_of_several_devices_can_be_named() -> None:
    assert Runtime(device="cuda:1").torch_device() == torch.device("cuda:1")


@pytest.mark.usefixtures("_no_accelerator")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "--device cuda: this machine has no CUDA device; use cpu or auto"),
        ("cuda:1", "--device cuda:1: this machine has no CUDA device; use cpu or auto"),
        ("mps", "--device mps: this machine has no Metal device; use cpu or auto"),
        ("gpu", "--device 'gpu' is no device: use auto, cpu, cuda, cuda:N or mps"),
        ("", "--device '' is no device: use auto, cpu, cuda, cuda:N or mps"),
        ("meta", "--device 'meta' is no device: use auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_device_that_is_not_here_is_refused_with_a_way_out(device: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        Runtime(device=device).torch_device()
    assert str(error.value) == message


@pytest.mark.usefixtures("_two_cuda_devices")
def test_a_device_beyond_the_last_is_refused() -> None:
    with pytest.raises(InputError, match="--device cuda:2: this machine has 2 CUDA devices"):
        Runtime(device="cuda:2").torch_device()


def test_fields_are_checked_while_the_tests_run() -> None:
    with pytest.raises(TypeCheckError):
        Runtime(threads="many")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("threads", "flops", "expected"), [(None, 1e6, 1), (None, 1e12, 2), (None, 4e8, 2), (2, 1e6, 2)]
)
def test_small_steps_get_one_thread_unless_asked_otherwise(threads, flops, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Runtime(threads=threads).threads_for(flops):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
