"""Node class rules in the admin, and the permissions of each class on the workers."""

from __future__ import annotations

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from accounts.audited_console import EditedAdmin
from comfyserve.console import html
from comfyserve.console.pages import Facts, Table
from workflows.graph import node_classes, node_policy
from workflows.models import NodeRule

COLOURS = {"confined": "good", "allowed": "busy", "denied": "bad"}


@admin.register(NodeRule)
class NodeRuleAdmin(EditedAdmin):
    list_display = ["node", "access", "who", "created_at"]
    list_filter = ["access"]
    list_select_related = ["user", "group"]
    search_fields = ["node"]
    search_help_text = "Node class or module"
    ordering = ["node"]
    fields = ["node", "access", "group", "user"]
    autocomplete_fields = ["user"]
    list_before_template = "workflows/node_classes_link.html"

    @admin.display(description="For")
    def who(self, row: NodeRule) -> str:
        return row.who

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(self.classes_view)
        return [path("classes/", page, name="workflows_node_classes"), *super().get_urls()]

    def classes_view(self, request: HttpRequest) -> HttpResponse:
        """Each node class on the workers, with its default permission and the exceptions."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": "Node classes",
            "opts": self.opts,
            "sections": [_isolation(), _classes()],
            "here": request.path,
        }
        return TemplateResponse(request, "console/page.html", context)


def _isolation() -> Facts:
    confines = node_policy.cached_fleet_confines()
    said = (
        "Each execution can read and write only its own files"
        if confines
        else "A ComfyUI without ComfyServe's bridge isolates users' files less well; more nodes are denied"
    )
    return Facts("Isolation", [("Bridge", "everywhere" if confines else "missing"), ("So", said)])


def _classes() -> Table:
    policy = node_policy.Policy(user_id=None)
    exceptions: dict[str, list[str]] = {}
    for rule in NodeRule.objects.select_related("user", "group").exclude(user=None, group=None):
        exceptions.setdefault(rule.node, []).append(f"{rule.access}: {rule.who}")
    rows = []
    for node in node_classes.all_known().values():
        verdict = policy.of(node.name)
        differs = [
            each for key in (node.name, node.module, node_classes.CUSTOM if node.is_custom else "")
            for each in exceptions.get(key, ())
        ]  # fmt: skip
        badge = html.badge(verdict.access, COLOURS[verdict.access])
        rows.append([node.name, node.module, badge, verdict.reason, "; ".join(differs)])
    return Table(
        "Node classes", ["Class", "Module", "Everybody", "Why", "But"], rows,
        empty="No worker has reported its nodes.",
    )  # fmt: skip
