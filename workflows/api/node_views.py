from __future__ import annotations

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from comfyserve.api.schema import describe
from workflows.graph import node_classes, node_policy


class NodeSerializer(serializers.Serializer[dict[str, str]]):
    class_type = serializers.CharField(help_text="Its class in workflows")
    title = serializers.CharField(help_text="Its display name in ComfyUI")
    category = serializers.CharField(allow_blank=True, help_text="Its category in ComfyUI")
    module = serializers.CharField(
        help_text="Its Python module in ComfyUI; for custom nodes it begins with custom_nodes"
    )
    access = serializers.ChoiceField(
        choices=["confined", "allowed", "denied"],
        help_text="confined: it reads and writes only the files of its own execution",
    )
    reason = serializers.CharField(allow_blank=True, help_text="Why it is denied")
    decided_by = serializers.ChoiceField(
        choices=["default", "everybody", "group", "user"],
        help_text="The scope of the operator's rule that decided, if any",
    )


class NodesView(APIView):
    """The node classes available on the workers, and whether the user may use each."""

    @describe(None, NodeSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List Nodes: every node class of the GPU workers, and whether you may use it."""
        policy = node_policy.Policy(user_id=request.user.pk)
        return Response([_shown(node, policy.of(node.name)) for node in node_classes.all_known().values()])


def _shown(node: node_classes.NodeClass, verdict: node_policy.Verdict) -> dict[str, str]:
    return {
        "class_type": node.name,
        "title": node.title,
        "category": node.category,
        "module": node.module,
        "access": verdict.access,
        "reason": verdict.reason,
        "decided_by": verdict.by,
    }
