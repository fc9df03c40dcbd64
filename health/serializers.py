"""Response shapes of the health endpoints, for the OpenAPI schema."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from workflows.models import Worker

CONDITIONS = ("healthy", "degraded", "unhealthy")


class LivenessSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["alive"], help_text="Always, where there is an answer")
    timestamp = serializers.DateTimeField(help_text="When this was said")


class ReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ready"], help_text="Requests may come")


class NotReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["not ready"], help_text="Send no requests here")
    reason = serializers.CharField(
        help_text="Database not available, migrations are missing, or shutting down"
    )


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(
        choices=CONDITIONS,
        help_text="degraded: what remains can serve; unhealthy: the database is unavailable",
    )
    timestamp = serializers.DateTimeField(help_text="When this was said")
    version = serializers.CharField(help_text="Of ComfyServe")
    uptime_seconds = serializers.FloatField(help_text="Of the process that answers")


class ServiceSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(
        help_text="database, redis, comfyui, comfyui:<worker>, storage, celery:<queue>"
    )
    status = serializers.ChoiceField(choices=CONDITIONS, help_text="How this service is")
    response_time_ms = serializers.FloatField(
        allow_null=True,
        help_text="How long it took to answer; null where it did not, or is not reached from here",
    )
    error = serializers.CharField(allow_null=True, help_text="What is wrong with it; null where nothing is")


class SystemSerializer(serializers.Serializer[Any]):
    cpu_usage_percent = serializers.FloatField(help_text="Of the host that answers")
    memory_usage_percent = serializers.FloatField(help_text="Of the host that answers")
    gpu_usage_percent = serializers.FloatField(allow_null=True, help_text="Null where no worker has a GPU")
    disk_usage_percent = serializers.FloatField(help_text="Of the disk that DATA_DIR is on")


class DetailedSerializer(HealthSerializer):
    services = ServiceSerializer(many=True, help_text="Each dependency")
    system = SystemSerializer(help_text="The machine that answers, and the GPUs of the workers")


class MetricsSerializer(serializers.Serializer[Any]):
    cpu_usage_percent = serializers.FloatField(help_text="Of the host that answers")
    memory_usage_percent = serializers.FloatField(help_text="Of the host that answers")
    gpu_usage_percent = serializers.FloatField(allow_null=True, help_text="Null where no worker has a GPU")
    gpu_memory_usage_percent = serializers.FloatField(
        allow_null=True, help_text="Over all GPUs of the workers; null where there is none"
    )
    disk_usage_percent = serializers.FloatField(help_text="Of the disk that DATA_DIR is on")
    active_executions = serializers.IntegerField(help_text="That run now")
    queue_size = serializers.IntegerField(help_text="That wait")
    total_executions = serializers.IntegerField(help_text="Ever accepted")
    average_execution_time_seconds = serializers.FloatField(
        allow_null=True, help_text="Of those that were completed; null while there is none"
    )


class RunningSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="What runs")
    since = serializers.DateTimeField(allow_null=True, help_text="Since when, as the worker saw it")


class WorkerSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Its backend's: COMFYUI_NAME, or host and address")
    status = serializers.ChoiceField(
        choices=[*Worker.State.values, "unreachable", "silent", "stopped"],
        help_text=(
            "silent: no heartbeat; unreachable: no answer of ComfyUI; faulty: it rests after faults; "
            "drained: by an operator, and it holds nothing any more"
        ),
    )
    wish = serializers.ChoiceField(
        choices=Worker.DesiredState.values, help_text="What an operator wants of it; it holds over restarts"
    )
    host = serializers.CharField(help_text="The machine that it runs on")
    pid = serializers.IntegerField(help_text="Of its process")
    url = serializers.CharField(help_text="Of its ComfyUI, without a password")
    comfyui_version = serializers.CharField(help_text="Empty where it was never reached")
    devices = serializers.ListField(child=serializers.DictField(), help_text="As ComfyUI tells")
    gpus = serializers.ListField(child=serializers.DictField(), help_text="As NVIDIA's driver tells")
    ram_total = serializers.IntegerField(allow_null=True, help_text="Bytes")
    ram_free = serializers.IntegerField(allow_null=True, help_text="Bytes")
    models_loaded = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Null where ComfyUI lacks our bridge"
    )
    running = RunningSerializer(allow_null=True, help_text="Null while nothing runs")
    staged = serializers.UUIDField(allow_null=True, help_text="The execution that waits in its ComfyUI")
    started_at = serializers.DateTimeField(help_text="When its process began")
    heartbeat_at = serializers.DateTimeField(help_text="When it was heard of last")
    silent_seconds = serializers.FloatField(help_text="Since its last heartbeat")
