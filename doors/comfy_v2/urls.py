from __future__ import annotations

from django.urls import path

from . import assets, events, jobs

urlpatterns = [
    path("assets", assets.upload),
    path("assets/from-hash", assets.FromHashView.as_view()),
    path("assets/by-hash/<str:digest>", assets.ByHashView.as_view()),
    path("assets/<str:file_id>", assets.AssetView.as_view()),
    path("assets/<str:file_id>/content", assets.content),
    path("jobs", jobs.JobsView.as_view()),
    path("jobs/<str:execution_id>", jobs.JobView.as_view()),
    path("jobs/<str:execution_id>/events", events.EventsView.as_view()),
    path("jobs/<str:execution_id>/cancel", jobs.CancelView.as_view()),
    path("jobs/<str:execution_id>/workflow", jobs.WorkflowView.as_view()),
]
