from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.factories import Api, make_user
from tests.scripted_comfyui import ScriptedComfyUI
from tests.workflows.rig import Rig


@pytest.fixture
def alice(db: Any) -> Api:
    return Api.of(make_user("alice"))


@pytest.fixture
def bob(db: Any) -> Api:
    return Api.of(make_user("bob"))


@pytest.fixture
def rig(transactional_db: None) -> Iterator[Rig]:
    with ScriptedComfyUI() as comfyui:
        rig = Rig(comfyui)
        yield rig
        rig.close()
