"""Operators' rules about who may use which node classes."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class NodeRule(models.Model):
    """Allows or denies a node class, or all classes of a Python module, for everybody, a group or a user."""

    class Access(models.TextChoices):
        ALLOW = "allow"
        DENY = "deny"

    node = models.CharField(
        max_length=200,
        help_text="A node class (SaveLoRA), a module of custom nodes (custom_nodes.ComfyUI-Impact-Pack), or "
        "custom_nodes for all of them. The more specific rule wins",
    )
    access = models.CharField(max_length=10, choices=Access.choices)
    group = models.ForeignKey(
        Group, null=True, blank=True, on_delete=models.CASCADE, help_text="Empty with no user: everybody"
    )
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(user=None) | Q(group=None), name="node_rule_for_user_or_group"
            ),
            models.UniqueConstraint(
                fields=["node", "user", "group"], name="node_rule_once", nulls_distinct=False
            ),
        ]

    def __str__(self) -> str:
        return f"{self.access} {self.node} for {self.who}"

    def clean(self) -> None:
        super().clean()
        if self.user_id is not None and self.group_id is not None:
            raise ValidationError("A rule is for a user or for a group, not for both")

    @property
    def who(self) -> str:
        return str(self.user or self.group or "everybody")
