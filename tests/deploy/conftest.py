from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.deployment import Deployment
from tests.services import services


# It ends with its module: its worker would clear away what other tests have in the same ComfyUI, as a worker
# that is kept for them would clear away what is run here.
@pytest.fixture(scope="module")
def deployment(tmp_path_factory, _first_comfyui, _stack, s3_server) -> Iterator[Deployment]:
    """compose.yaml in the profile `cpu`, each service a process: started in its order, and all well."""
    _stack.stop_workers()
    found = Deployment(
        tmp_path_factory.mktemp("deployment"),
        database_url=services.database_url.replace("/comfyserve", "/postgres"),
        redis_url=services.redis_url,
        s3_url=s3_server.url,
        s3_secret=s3_server.secret_key,
        comfyui_url=_first_comfyui.url,
    )
    try:
        found.make_database()
        found.start_proxy()
        migrate = found.start("migrate")
        migrate.wait_until(lambda: not migrate.alive, seconds=180)
        assert migrate.code == 0, "\n".join(migrate.tail())
        for name in ("api", "gpu-worker", "worker", "flower", "beat"):
            found.start(name)
        for name in ("api", "flower"):
            found.wait_until_well(name)
        for name in ("gpu-worker", "worker"):
            found.wait_until_it_works(name)
        yield found
    finally:
        found.stop()
