"""GET /workers/, and the GPU figures of a heartbeat."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pynvml
import pytest
from django.utils import timezone

from health import comfyui_checks
from health.doctor import host
from models_registry.models import Host, Model, ModelFile
from tests.factories import Api, make_user
from workflows.models import Worker
from workflows.worker import gpus

pytestmark = pytest.mark.django_db


def make_worker(name: str, *, silent_for: float = 0, **fields) -> Worker:
    beat = timezone.now() - timedelta(seconds=silent_for)
    given = {"host": "h", "pid": 1, "url": "http://me:secret@gpu:8188", "reachable": True, **fields}
    return Worker.objects.create(name=name, heartbeat_at=beat, **given)


@pytest.fixture
def staff() -> Api:
    return Api.of(make_user("olga", is_staff=True))


@pytest.mark.parametrize("path", ["/workers/", "/workers"])
def test_it_is_for_staff__yes(staff, path):
    assert staff.get(path).status_code == 200


def test_it_is_for_staff__no():
    assert Api.of(make_user("alice")).get("/workers/").status_code == 403
    assert Api().get("/workers/").status_code == 401


@pytest.mark.parametrize(
    "silent_for, fields, status",
    [
        (0, {}, "active"),
        (0, {"state": "paused"}, "paused"),
        (0, {"reachable": False}, "unreachable"),
        (60, {}, "silent"),
        (25 * 3600, {}, "stopped"),
    ],
)
def test_one_word_says_how_it_is(staff, silent_for, fields, status):
    make_worker("a", silent_for=silent_for, **fields)
    [row] = staff.get("/workers/").json()
    assert row["status"] == status
    assert row["silent_seconds"] == pytest.approx(silent_for, abs=5)


@pytest.mark.django_db(transaction=True)
def test_health_says_which_comfyui_hangs():
    """The check returns its connection to the pool, so its rows have to be committed."""
    make_worker("a", state="hung")
    _, one = comfyui_checks.check()
    assert (one.name, one.status) == ("comfyui:a", "degraded")
    assert "restart this ComfyUI" in (one.error or "")


def test_it_says_what_runs_since_when(staff):
    running, since = uuid.uuid4(), timezone.now()
    make_worker("a", running=running, running_since=since)
    [row] = staff.get("/workers/").json()
    assert row["running"]["execution_id"] == str(running)
    assert row["running"]["since"].startswith(since.isoformat()[:19])


def test_it_says_which_models_are_in_memory(staff):
    make_worker("a")
    host = Host.objects.create(name="a", bridge=True)
    for name, loaded in (("x.safetensors", 100), ("y.safetensors", 0)):
        model = Model.objects.create(type="checkpoint", name=name)
        ModelFile.objects.create(
            model=model,
            host=host,
            folder="checkpoints",
            path=f"/m/{name}",
            size=1,
            changed=0,
            loaded_bytes=loaded,
        )
    [row] = staff.get("/workers/").json()
    assert row["models_loaded"] == ["x.safetensors"]


def test_models_are_null_if_comfyui_does_not_report_them(staff):
    make_worker("a")
    [row] = staff.get("/workers/").json()
    assert row["models_loaded"] is None


def test_nothing_runs_is_null(staff):
    make_worker("a")
    [row] = staff.get("/workers/").json()
    assert row["running"] is None
    assert row["staged"] is None


def test_the_address_has_no_password(staff):
    make_worker("a")
    [row] = staff.get("/workers/").json()
    assert row["url"] == "http://gpu:8188"


class TestGpus:
    """What the driver is asked is answered with the structures that nvidia-ml-py fills: no GPU is here."""

    @pytest.fixture
    def device(self, monkeypatch):
        """One device; given is what it answers to `nvmlDeviceGet…`."""
        gpus._has_driver.cache_clear()
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: pynvml.c_nvmlDevice_t())

        def answers(**told):
            for name, value in told.items():
                monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", lambda *_, value=value: _answer(value))

        yield answers
        gpus._has_driver.cache_clear()

    @pytest.fixture
    def well(self, device):
        memory, rates = pynvml.c_nvmlMemory_t(), pynvml.c_nvmlUtilization_t()
        memory.total, memory.used, rates.gpu = 80 * 2**30, 2**30, 37
        device(MemoryInfo=memory, UtilizationRates=rates, Temperature=61, UUID="GPU-1", Name="H")

    def test_there_are_none_without_nvidias_driver(self, device, monkeypatch):
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: _answer(pynvml.NVMLError_LibraryNotFound))
        assert gpus.figures() == []

    def test_the_drivers_values_are_plain_numbers_and_text(self, well):
        """The heartbeat writes it as JSON."""
        assert json.loads(json.dumps(gpus.figures())) == [
            {
                "index": 0, "uuid": "GPU-1", "name": "H", "usage_percent": 37.0, "memory_used": 2**30,
                "memory_total": 80 * 2**30, "temperature_celsius": 61,
            }
        ]  # fmt: skip

    def test_the_doctor_names_them(self, well):
        [finding] = host.gpus()
        assert (finding.subject, finding.seen) == ("gpu", "0: H, 80 GiB")

    def test_values_that_a_device_does_not_report_are_null(self, device):
        unknown = ("MemoryInfo", "UtilizationRates", "Temperature", "UUID", "Name")
        device(**dict.fromkeys(unknown, pynvml.NVMLError_NotSupported))
        [gpu] = gpus.figures()
        assert gpu.pop("index") == 0
        assert set(gpu.values()) == {None}


def _answer(value):
    if isinstance(value, type):
        raise value
    return value
