"""ComfyUI's routes; each is also served under `/api`, as in ComfyUI."""

from __future__ import annotations

from django.urls import include, path

from . import files, jobs, machine, prompts, userdata, websocket

routes = [
    path("prompt", prompts.PromptView.as_view()),
    path("queue", prompts.QueueView.as_view()),
    path("interrupt", prompts.InterruptView.as_view()),
    path("history", prompts.HistoryView.as_view()),
    path("history/<str:prompt_id>", prompts.OneHistoryView.as_view()),
    path("jobs", jobs.JobsView.as_view()),
    path("jobs/cancel", jobs.CancelSeveralView.as_view()),
    path("jobs/<str:job_id>", jobs.JobView.as_view()),
    path("jobs/<str:job_id>/cancel", jobs.CancelView.as_view()),
    path("upload/image", files.upload),
    path("upload/mask", files.mask),
    path("view", files.view),
    path("object_info", machine.ObjectInfoView.as_view()),
    path("object_info/<str:class_type>", machine.OneObjectInfoView.as_view()),
    path("models", machine.ModelsView.as_view()),
    path("models/<str:folder>", machine.FolderView.as_view()),
    path("embeddings", machine.EmbeddingsView.as_view()),
    path("experiment/models", machine.ModelFoldersView.as_view()),
    path("experiment/models/<str:folder>", machine.ModelFolderView.as_view()),
    # Asked for by the front end: there are none.
    path("workflow_templates", machine.EmptyObjectView.as_view()),
    path("global_subgraphs", machine.EmptyObjectView.as_view()),
    path("i18n", machine.EmptyObjectView.as_view()),
    path("extensions", machine.EmptyListView.as_view()),
    path("system_stats", machine.SystemStatsView.as_view()),
    path("features", machine.FeaturesView.as_view()),
    path("ws", websocket.WebsocketView.as_view()),
    path("free", machine.FreeView.as_view()),
    path("users", userdata.UsersView.as_view()),
    path("userdata", userdata.ListView.as_view()),
    path("userdata/<path:path>", userdata.FileView.as_view()),
    path("v2/userdata", userdata.TreeView.as_view()),
    path("settings", userdata.SettingsView.as_view()),
    path("settings/<str:name>", userdata.SettingView.as_view()),
]
urlpatterns = [*routes, path("api/", include(routes))]
