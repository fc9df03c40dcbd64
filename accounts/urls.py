from __future__ import annotations

from django.urls import path

from accounts import views

urlpatterns = [
    path("register", views.Register.as_view(), name="register"),
    path("login", views.Login.as_view(), name="login"),
    path("refresh", views.Refresh.as_view(), name="refresh"),
    path("me", views.Me.as_view(), name="me"),
    path("logout", views.Logout.as_view(), name="logout"),
]
