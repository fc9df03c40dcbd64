from __future__ import annotations

from django.urls import path

from accounts import views

urlpatterns = [
    path("register", views.Register.as_view(), name="register"),
    path("login", views.Login.as_view(), name="login"),
    path("refresh", views.Refresh.as_view(), name="refresh"),
    path("me", views.Me.as_view(), name="me"),
    path("logout", views.Logout.as_view(), name="logout"),
    path("password", views.Password.as_view(), name="password"),
    path("password/reset", views.PasswordReset.as_view(), name="password-reset"),
    path("password/reset/confirm", views.PasswordResetConfirm.as_view(), name="password-reset-confirm"),
    path("keys", views.Keys.as_view(), name="api-keys"),
    path("keys/<int:key_id>", views.Key.as_view(), name="api-key"),
]
