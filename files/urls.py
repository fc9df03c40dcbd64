from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("", views.ListView.as_view()),
    path("upload", views.upload),
    path("<str:file_id>", views.file),
    path("<str:file_id>/info", views.InfoView.as_view()),
    path("<str:file_id>/thumbnail", views.thumbnail),
]
