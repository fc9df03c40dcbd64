"""The short form of script/faults: a cluster of its own, some seconds of faults, nothing lost or doubled."""

from __future__ import annotations

import pytest

from script.fault_injection.attack import attack, print_report
from script.fault_injection.cluster import Cluster

SEED = 7  # of a sequence that kills, freezes and cuts a bit of everything


@pytest.mark.timeout(400)
def test_nothing_is_lost_or_done_twice_under_faults(comfyui_pair, tmp_path):
    with Cluster(tmp_path, comfyuis=comfyui_pair).running() as cluster:
        report = attack(cluster, seconds=20, seed=SEED, clients=4, pace=1.5, pause=0.5, longest=3.0)
    print_report(report, seed=SEED)
    assert report.broken == []
    assert len(report.faults) >= 6
    assert report.statuses["completed"] >= 10
