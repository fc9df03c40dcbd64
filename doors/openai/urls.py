from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("models", views.ModelsView.as_view(), name="openai-models"),
    path("models/<path:app>", views.ModelView.as_view(), name="openai-model"),
    path("images/generations", views.GenerationsView.as_view(), name="openai-generations"),
    path("images/edits", views.EditsView.as_view(), name="openai-edits"),
]
