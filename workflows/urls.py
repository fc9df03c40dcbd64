from __future__ import annotations

from django.urls import include, path

from .api import batch_views, delivery_views, node_views, stream_views, views, webhook_views

batch_urls = [
    path("<str:batch_id>", batch_views.BatchView.as_view()),
    path("<str:batch_id>/cancel", batch_views.CancelView.as_view()),
    path("<str:batch_id>/retry", batch_views.RetryView.as_view()),
    path("<str:batch_id>/contact-sheet", batch_views.ContactSheetView.as_view()),
    path("<str:batch_id>/redeliver", delivery_views.RedeliverBatchView.as_view()),
]

urlpatterns = [
    path("", views.ListView.as_view()),
    path("execute", views.ExecuteView.as_view()),
    path("validate", views.ValidateView.as_view()),
    path("nodes", node_views.NodesView.as_view()),
    path("events", stream_views.AllEventsView.as_view()),
    path("batch", batch_views.SubmitView.as_view()),
    path("batches", batch_views.ListView.as_view()),
    path("batches/", include(batch_urls)),
    path("<str:execution_id>", views.ResultView.as_view()),
    path("<str:execution_id>/status", views.StatusView.as_view()),
    path("<str:execution_id>/logs", views.LogsView.as_view()),
    path("<str:execution_id>/cancel", views.CancelView.as_view()),
    path("<str:execution_id>/retry", views.RetryView.as_view()),
    path("<str:execution_id>/events", stream_views.ExecutionEventsView.as_view()),
    path("<str:execution_id>/redeliver", delivery_views.RedeliverView.as_view()),
    path("<str:execution_id>/webhooks", webhook_views.DeliveriesView.as_view()),
    path("<str:execution_id>/webhooks/<int:delivery_id>/redeliver", webhook_views.RedeliverView.as_view()),
]
