"""The short form of script/attack, against a real ComfyUI, and proof that it finds open holes."""

from __future__ import annotations

import pytest

from script.harness.receiver import ADDRESS
from script.harness.stack import Person
from script.harness.waiting import wait_for
from script.local.attack import addresses, honest
from script.local.attack.campaign import Extent, attack
from script.local.attack.installation import Installation
from workflows.graph import node_classes

FOLDER_READER = "LoadImageDataSetFromFolder"
# Each reads or writes files, in a way of its own.
CLASSES = (
    "LoadImage", "LoadImageMask", "LoadImageOutput", "LoadLatent", "LoadVideo", "LoadAudio", "Load3D",
    "Preview3D", "SaveImage", "SaveLatent", "SaveAudio", "SaveSVGNode", "WebcamCapture",
)  # fmt: skip
SEED = 7


@pytest.fixture
def installation(gpu_worker, comfyui) -> Installation:
    return Installation(gpu_worker.url, comfyui.folder, pids=lambda: gpu_worker.web.pid, receiver=ADDRESS)


@pytest.mark.timeout(400)
def test_nothing_gets_through(installation, monkeypatch):
    # Other tests run beside this one. Whoever must wait for an attack of this extent waits longer.
    monkeypatch.setattr(honest, "FLOOR", 3.0)
    extent = Extent(
        seconds=20,
        seed=SEED,
        connections=20,
        kinds=frozenset({"slow headers", "slow bodies", "slow readers"}),
        routes_share=0.1,
        classes=CLASSES,
        bombs=frozenset({"picture of 60,000 by 60,000", "regular expression", "deep JSON"}),
        addresses=frozenset({"loopback", "name", "nat64", "metadata", "file", "no-address"}),
        alone_seconds=1.5,
        hold_seconds=0.5,
    )
    report = attack(installation, extent)
    print("\n".join(report.lines()))
    assert report.leaks == []
    # How many fit into the time depends on the machine: here it matters that none of these was left out.
    assert report.tries["paths in inputs of nodes"] > 5
    assert report.ran["paths in inputs of nodes"] > 5
    assert report.tries["routes with another user's ids"] > 100


@pytest.fixture
def everybody_reads_folders(gpu_worker):
    """One wall is taken down: an operator lets everybody use a node that is denied by default."""
    assert FOLDER_READER in node_classes.DENIED
    gpu_worker.sql(
        "INSERT INTO workflows_noderule (node, access) VALUES (%s, 'allow')",
        FOLDER_READER,
    )
    person = gpu_worker.person()
    wait_for(
        lambda: _access(person, FOLDER_READER) == "allowed",
        seconds=40,
        what="the web process to see the rule",
    )
    yield
    gpu_worker.sql("DELETE FROM workflows_noderule WHERE node = %s", FOLDER_READER)


def _access(person: Person, class_type: str) -> str:
    nodes = person.get("/workflows/nodes").json()
    return next(node["access"] for node in nodes if node["class_type"] == class_type)


@pytest.mark.timeout(240)
def test_it_finds_a_node_that_reads_what_others_have(installation, everybody_reads_folders):
    extent = Extent(seconds=20, seed=SEED, classes=[FOLDER_READER], alone_seconds=0.2)
    report = attack(installation, extent, parts=["nodes"])
    print("\n".join(report.lines()))
    assert any(FOLDER_READER in leak and "the victim's picture" in leak for leak in report.leaks)


@pytest.mark.timeout(240)
def test_it_finds_an_address_that_is_open(installation, monkeypatch):
    """It takes the one address that the operator allows for one inside."""
    monkeypatch.setattr(addresses, "INSIDE", ADDRESS)
    extent = Extent(seconds=20, seed=SEED, addresses=frozenset({"loopback"}), alone_seconds=0.2)
    report = attack(installation, extent, parts=["addresses"])
    print("\n".join(report.lines()))
    assert any("/loopback was fetched" in leak for leak in report.leaks)
