from __future__ import annotations

import pytest

from comfyserve.backends import backend_name


def test_it_is_the_name_that_was_given() -> None:
    assert backend_name(name="left-gpu", url="http://127.0.0.1:8188") == "left-gpu"


@pytest.mark.parametrize("name", ["two words", "a/b", "a,b", "x" * 101])
def test_it_refuses_names_that_do_not_fit_a_queue(name: str) -> None:
    with pytest.raises(ValueError, match="COMFYUI_NAME"):
        backend_name(name=name, url="http://127.0.0.1:8188")


def test_the_same_loopback_address_on_two_machines_gives_two_names() -> None:
    one, two = (backend_name(name="", url="http://127.0.0.1:8188", host=host) for host in ("ant", "bee"))
    assert one == "ant:127.0.0.1:8188"
    assert two == "bee:127.0.0.1:8188"


@pytest.mark.parametrize(
    ("url", "port"),
    [("https://gpu.example/comfy", 443), ("http://gpu.example", 80), ("http://gpu.example:1,http://b:2", 1)],
)
def test_the_port_is_always_part_of_it(url: str, port: int) -> None:
    assert backend_name(name="", url=url, host="ant") == f"ant:gpu.example:{port}"
