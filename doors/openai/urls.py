from __future__ import annotations

from django.urls import path

from . import video_views, views

urlpatterns = [
    path("models", views.ModelsView.as_view(), name="openai-models"),
    path("models/<path:app>", views.ModelView.as_view(), name="openai-model"),
    path("images/generations", views.GenerationsView.as_view(), name="openai-generations"),
    path("images/edits", views.EditsView.as_view(), name="openai-edits"),
    path("videos", video_views.VideosView.as_view(), name="openai-videos"),
    path("videos/<str:video_id>", video_views.VideoView.as_view(), name="openai-video"),
    path(
        "videos/<str:video_id>/content", video_views.VideoContentView.as_view(), name="openai-video-content"
    ),
]
