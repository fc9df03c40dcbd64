from __future__ import annotations

from django.urls import path

from . import views

urlpatterns = [
    path("health/", views.Health.as_view()),
    path("health/detailed", views.DetailedHealth.as_view()),
    path("health/readiness", views.Readiness.as_view()),
    path("health/liveness", views.Liveness.as_view()),
    path("metrics/", views.Metrics.as_view()),
    path("workers/", views.Workers.as_view()),
    path("workers/<str:worker_name>/pause", views.PauseWorker.as_view()),
    path("workers/<str:worker_name>/drain", views.DrainWorker.as_view()),
    path("workers/<str:worker_name>/resume", views.ResumeWorker.as_view()),
]
