"""Serializers of the accounts API. They validate the format; rules live in the domain modules."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.core.validators import RegexValidator
from django.utils import timezone
from rest_framework import serializers

from accounts import passwords
from accounts.models import ApiKey, Scope, User
from comfyserve.api.fields import BooleanField, EmailField, MomentField, TextField

PASSWORD_CHARACTERS = 1024  # hashing longer ones would cost us more than the sender


def password_field(**kwargs: Any) -> TextField:
    return TextField(max_length=PASSWORD_CHARACTERS, trim_whitespace=False, write_only=True, **kwargs)


class RegistrationSerializer(serializers.Serializer[Any]):
    email = EmailField(max_length=254, help_text="Unique, ignoring case")
    password = password_field(help_text="At least 8 characters, not common, not like the name")
    username = TextField(
        max_length=150,
        validators=[User.username_validator, RegexValidator(r"\w", "It must have a letter or a digit")],
        help_text="Letters, digits and @ . + - _ only; unique",
    )

    def validate_password(self, password: str) -> str:
        # The other fields may be invalid too; all errors are reported at once.
        texts = {name: str(self.initial_data.get(name, "")) for name in ("email", "username")}
        broken = passwords.rules_broken(password, User(**texts))
        if broken:
            raise serializers.ValidationError(broken)
        return password


class LoginSerializer(serializers.Serializer[Any]):
    email = TextField(max_length=254, help_text="The account's e-mail address")
    password = password_field(help_text="The account's password")


class RefreshSerializer(serializers.Serializer[Any]):
    refresh_token = TextField(max_length=2000, help_text="From the last login or refresh")


class TokenPairSerializer(serializers.Serializer[Any]):
    access_token = serializers.CharField(help_text="Send it as `Authorization: Bearer …`")
    refresh_token = serializers.CharField(help_text="Exchanged for the next pair; valid once")
    token_type = serializers.CharField(help_text="Always `bearer`")
    expires_in = serializers.IntegerField(help_text="Lifetime of the access token in seconds")


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "email", "username", "is_active", "created_at", "updated_at"]
        read_only_fields = fields
        extra_kwargs = {
            "id": {"help_text": "Never changes"},
            "email": {"help_text": "What the user logs in with"},
            "username": {"help_text": "Unique"},
            "is_active": {"help_text": "An inactive account cannot log in or use the API"},
            "created_at": {"help_text": "When the account was created"},
        }


class LogoutSerializer(serializers.Serializer[Any]):
    everywhere = BooleanField(default=False, help_text="End all of your sessions")


class MessageSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="Description of the result")


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    class Meta:
        model = ApiKey
        fields = ["id", "name", "prefix", "scope", "created_at", "expires_at", "last_used_at"]
        read_only_fields = fields
        extra_kwargs = {
            "id": {"help_text": "For DELETE /auth/keys/{id}"},
            "name": {"help_text": "What the key is for"},
            "scope": {"help_text": "What it may be used for; `comfyui`: ComfyUI's routes only"},
            "expires_at": {"help_text": "When it stops working; null: never"},
            "created_at": {"help_text": "When it was created"},
        }


class NewApiKeySerializer(serializers.Serializer[Any]):
    name = TextField(max_length=100, help_text="What the key is for")
    expires_at = MomentField(
        required=False, allow_null=True, default=None, help_text="When it stops working; null: never"
    )

    scope = serializers.ChoiceField(
        Scope.choices, required=False, default=Scope.ALL,
        help_text="`comfyui`: a key that may use ComfyUI's routes only, also as `/c/<key>/`",
    )  # fmt: skip

    def validate_expires_at(self, moment: datetime | None) -> datetime | None:
        if moment is not None and moment <= timezone.now():
            raise serializers.ValidationError("This time has passed")
        return moment


class MadeApiKeySerializer(ApiKeySerializer):
    key = serializers.CharField(help_text="The key itself, shown this once: `Authorization: Bearer <key>`")

    class Meta(ApiKeySerializer.Meta):
        fields = [*ApiKeySerializer.Meta.fields, "key"]
        read_only_fields = fields


class PasswordChangeSerializer(serializers.Serializer[Any]):
    current_password = password_field(help_text="The current password")
    new_password = password_field(help_text="At least 8 characters, not common, not like the name")


class ResetSerializer(serializers.Serializer[Any]):
    email = EmailField(max_length=254, help_text="The account's e-mail address")


class ResetConfirmSerializer(serializers.Serializer[Any]):
    token = TextField(max_length=200, help_text="From the e-mail")
    new_password = password_field(help_text="At least 8 characters, not common, not like the name")
