"""Who may use which node class: defaults for ComfyUI's own, and operators' rules.

A user's rule overrides a group's, which overrides one for everybody, which overrides the default. If a user's
groups disagree, allow wins. A rule for the class overrides one for its module. Custom nodes are allowed by
default: an operator installed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.db.models.functions import Now
from django.db.models.signals import post_delete, post_save

from comfyserve.api.errors import Detail
from comfyserve.ttl_cache import TtlCache
from workflows.models import NodeRule, Worker

from . import file_inputs, node_classes
from .node_classes import CONFINED, CUSTOM, DENIED, WITHOUT_BRIDGE, NodeClass
from .parsing import Graph, Prompt, links_of

BEATS = 3  # as in workflows.fleet.registry: a worker is offline after missing this many heartbeats
BY_OPERATOR = "an operator denies it"
RULES_SECONDS = 2.0  # until other processes apply a changed rule


@dataclass(frozen=True)
class Verdict:
    """`access` is confined (reads and writes only the user's own files), allowed or denied."""

    access: str
    reason: str = ""  # why it is denied
    by: str = "default"  # or user, group, everybody: the scope of the deciding rule


@dataclass(frozen=True)
class Rule:
    allows: bool
    user_id: Any
    group_id: Any


def _rules() -> Mapping[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    columns = NodeRule.objects.values_list("node", "access", "user_id", "group_id")
    for node, access, user_id, group_id in columns:
        rule = Rule(access == NodeRule.Access.ALLOW, user_id, group_id)
        found[node] = (*found.get(node, ()), rule)
    return found


def _confines() -> bool:
    alive = Worker.objects.filter(heartbeat_at__gt=Now() - timedelta(seconds=settings.RENEW_SECONDS * BEATS))
    return not alive.filter(boot="", reachable=True).exists()


cached_rules = TtlCache(_rules, seconds=RULES_SECONDS)
cached_fleet_confines = TtlCache(_confines, seconds=RULES_SECONDS)  # all live ComfyUIs have our bridge


def _forget(**_: Any) -> None:
    cached_rules.forget()


post_save.connect(_forget, sender=NodeRule, dispatch_uid="node_policy.saved")
post_delete.connect(_forget, sender=NodeRule, dispatch_uid="node_policy.deleted")


class Policy:
    """The policy for one user. Rules are at most RULES_SECONDS old; groups are only loaded if needed."""

    def __init__(self, *, user_id: Any, confines: bool | None = None) -> None:
        self._user_id = user_id
        self._rules = cached_rules()
        self._confines = cached_fleet_confines() if confines is None else confines

    def of(self, class_type: str, known: Iterable[NodeClass] | None = None) -> Verdict:
        """The verdict for a class; if ComfyUIs define it differently, the strictest."""
        known = node_classes.known(class_type) if known is None else known
        verdicts = [self._judge(each) for each in known] or [self._judge_unknown(class_type)]
        return min(verdicts, key=lambda verdict: ("denied", "confined", "allowed").index(verdict.access))

    def _judge(self, node: NodeClass) -> Verdict:
        keys = [node.name, node.module, *([CUSTOM] if node.is_custom else [])]
        for key in keys:
            verdict = self._ruled(key, node.name)
            if verdict is not None:
                return verdict
        return self._default(node.name, node.reason_to_deny)

    def _judge_unknown(self, class_type: str) -> Verdict:
        """No ComfyUI has reported the class; the worker that runs it decides again."""
        return self._ruled(class_type, class_type) or self._default(class_type, DENIED.get(class_type))

    def _default(self, class_type: str, reason: str | None) -> Verdict:
        if reason is None and not self._confines:
            reason = WITHOUT_BRIDGE.get(class_type)
        if reason is not None:
            return Verdict("denied", reason)
        return Verdict(_open(class_type))

    def _ruled(self, key: str, class_type: str) -> Verdict | None:
        rules = self._rules.get(key, ())
        for by, applying in (
            ("user", [rule for rule in rules if rule.user_id is not None and rule.user_id == self._user_id]),
            ("group", [rule for rule in rules if rule.group_id and rule.group_id in self._groups]),
            ("everybody", [rule for rule in rules if rule.user_id is None and rule.group_id is None]),
        ):
            if applying:
                allows = any(rule.allows for rule in applying)
                return Verdict(_open(class_type), by=by) if allows else Verdict("denied", BY_OPERATOR, by)
        return None

    @cached_property
    def _groups(self) -> frozenset[Any]:
        return frozenset(Group.objects.filter(user=self._user_id).values_list("id", flat=True))

    # -- whole workflows ----------------------------------------------------------------------------------
    def denials(
        self, prompt: Prompt, known: Mapping[str, NodeClass] | None = None
    ) -> Iterator[tuple[str, str]]:
        """Yield (node id, sentence) for each node that the user may not use. `known` are the classes of the
        ComfyUI that would run it.
        """
        verdicts: dict[str, Verdict] = {}
        for node_id, node in prompt.items():
            class_type = node["class_type"]
            if class_type not in verdicts:
                here = [known[class_type]] if known and class_type in known else None
                verdicts[class_type] = self.of(class_type, here)
            if verdicts[class_type].access == "denied":
                yield node_id, _sentence(prompt, node_id, verdicts[class_type].reason)
            elif not self._confines and _linked_prefix(prompt, node_id):
                reason = "its filename_prefix is a link; write the text instead"
                yield node_id, _sentence(prompt, node_id, reason)


def mistakes(graph: Graph, *, user_id: Any) -> Iterator[Detail]:
    """Errors of a submission: denied nodes, each under the path of its class, and paths in file inputs."""
    for node_id, sentence in Policy(user_id=user_id).denials(graph.prompt):
        yield Detail("NODE_NOT_ALLOWED", sentence, f"{graph.node_paths[node_id]}.class_type")
    yield from file_inputs.misplaced(graph)


def _open(class_type: str) -> str:
    return "confined" if class_type in CONFINED else "allowed"


def _linked_prefix(prompt: Prompt, node_id: str) -> bool:
    return any(name == "filename_prefix" for name, _ in links_of(prompt, node_id))


def _sentence(prompt: Prompt, node_id: str, reason: str) -> str:
    node = prompt[node_id]
    title = node.get("_meta", {}).get("title")
    called = f"'{title}' ({node['class_type']})" if title else node["class_type"]
    return f"Node {node_id}, {called}, may not be used: {reason}. Ask an operator if you need it"
