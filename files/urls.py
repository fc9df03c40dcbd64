from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [path("<str:file_id>", views.DownloadView.as_view())]
