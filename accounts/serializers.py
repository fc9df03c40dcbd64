"""The shapes of accounts in the API. They check form; what is allowed is decided in the modules."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError as DjangoValidationError
from rest_framework import serializers

from accounts.models import ApiKey, User

PASSWORD_CHARACTERS = 1024  # hashing longer ones would cost us more than the sender


def password_field(**kwargs: Any) -> serializers.CharField:
    return serializers.CharField(
        max_length=PASSWORD_CHARACTERS, trim_whitespace=False, write_only=True, **kwargs
    )


def check_password_rules(password: str, user: User) -> None:
    """ValidationError with one message for each of Django's rules that the password breaks."""
    try:
        password_validation.validate_password(password, user)
    except DjangoValidationError as exc:
        raise serializers.ValidationError(exc.messages) from exc


class RegistrationSerializer(serializers.Serializer[Any]):
    email = serializers.EmailField(max_length=254, help_text="Unique, whatever its case")
    password = password_field(help_text="At least 8 characters, not common, not like the name")
    username = serializers.CharField(
        max_length=150,
        validators=[User.username_validator],
        help_text="Letters, digits and @ . + - _ only; unique",
    )

    def validate_password(self, password: str) -> str:
        # The other fields may be wrong themselves; all mistakes are told at once.
        told = {name: str(self.initial_data.get(name, "")) for name in ("email", "username")}
        check_password_rules(password, User(**told))
        return password


class LoginSerializer(serializers.Serializer[Any]):
    email = serializers.CharField(max_length=254, help_text="The account's e-mail address")
    password = password_field(help_text="The account's password")


class RefreshSerializer(serializers.Serializer[Any]):
    refresh_token = serializers.CharField(max_length=2000, help_text="From the last login or refresh")


class TokenPairSerializer(serializers.Serializer[Any]):
    access_token = serializers.CharField(help_text="Send it as `Authorization: Bearer …`")
    refresh_token = serializers.CharField(help_text="Gets the next pair; good for one use")
    token_type = serializers.CharField(help_text="Always `bearer`")
    expires_in = serializers.IntegerField(help_text="Seconds that the access token is good for")


class UserSerializer(serializers.ModelSerializer[User]):
    class Meta:
        model = User
        fields = ["id", "email", "username", "is_active", "created_at", "updated_at"]
        read_only_fields = fields


class LogoutSerializer(serializers.Serializer[Any]):
    everywhere = serializers.BooleanField(default=False, help_text="End all of your sessions")


class MessageSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="What was done")


class ApiKeySerializer(serializers.ModelSerializer[ApiKey]):
    class Meta:
        model = ApiKey
        fields = ["id", "name", "prefix", "created_at", "expires_at", "last_used_at"]
        read_only_fields = fields
