"""Response shapes of the health endpoints, for the OpenAPI schema."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from workflows.models import Worker

CONDITIONS = ("healthy", "degraded", "unhealthy")


class LivenessSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["alive"], help_text="Always this value")
    timestamp = serializers.DateTimeField(help_text="Time of the response")


class ReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ready"], help_text="Ready for requests")


class NotReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["not ready"], help_text="Not ready for requests")
    reason = serializers.CharField(
        help_text="Database not available, migrations are missing, or shutting down"
    )


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(
        choices=CONDITIONS,
        help_text="degraded: what remains can serve; unhealthy: the database is unavailable",
    )
    timestamp = serializers.DateTimeField(help_text="Time of the response")
    version = serializers.CharField(help_text="Version of ComfyServe")
    uptime_seconds = serializers.FloatField(help_text="Uptime of the responding process")


class ServiceSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(
        help_text="database, redis, comfyui, comfyui:<worker>, storage, celery:<queue>"
    )
    status = serializers.ChoiceField(choices=CONDITIONS, help_text="State of this dependency")
    response_time_ms = serializers.FloatField(
        allow_null=True,
        help_text="Response time; null if it did not respond, or is not reachable from here",
    )
    error = serializers.CharField(allow_null=True, help_text="The problem; null if there is none")


class SystemSerializer(serializers.Serializer[Any]):
    cpu_usage_percent = serializers.FloatField(help_text="Of the responding host")
    memory_usage_percent = serializers.FloatField(help_text="Of the responding host")
    gpu_usage_percent = serializers.FloatField(allow_null=True, help_text="Null if no worker has a GPU")
    disk_usage_percent = serializers.FloatField(help_text="Of the disk with DATA_DIR")


class DetailedSerializer(HealthSerializer):
    services = ServiceSerializer(many=True, help_text="The dependencies")
    system = SystemSerializer(help_text="The responding host, and the workers' GPUs")


class MetricsSerializer(serializers.Serializer[Any]):
    cpu_usage_percent = serializers.FloatField(help_text="Of the responding host")
    memory_usage_percent = serializers.FloatField(help_text="Of the responding host")
    gpu_usage_percent = serializers.FloatField(allow_null=True, help_text="Null if no worker has a GPU")
    gpu_memory_usage_percent = serializers.FloatField(
        allow_null=True, help_text="Over all GPUs of the workers; null if there is none"
    )
    disk_usage_percent = serializers.FloatField(help_text="Of the disk with DATA_DIR")
    active_executions = serializers.IntegerField(help_text="Running executions")
    queue_size = serializers.IntegerField(help_text="Waiting executions")
    total_executions = serializers.IntegerField(help_text="Executions accepted so far")
    average_execution_time_seconds = serializers.FloatField(
        allow_null=True, help_text="Of completed executions; null if there is none"
    )


class RunningSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField(help_text="The running execution")
    since = serializers.DateTimeField(allow_null=True, help_text="When it started, as observed by the worker")


class WorkerSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Name of its backend: COMFYUI_NAME, or host and address")
    status = serializers.ChoiceField(
        choices=[*Worker.State.values, "unreachable", "silent", "stopped"],
        help_text=(
            "silent: no heartbeat; unreachable: ComfyUI does not respond; faulty: backing off after faults; "
            "drained: by an operator, and it holds no executions"
        ),
    )
    wish = serializers.ChoiceField(
        choices=Worker.DesiredState.values, help_text="The state an operator has set; it survives restarts"
    )
    host = serializers.CharField(help_text="The host that it runs on")
    pid = serializers.IntegerField(help_text="Process id")
    url = serializers.CharField(help_text="URL of its ComfyUI, without a password")
    comfyui_version = serializers.CharField(help_text="Version of ComfyUI; empty if it was never reached")
    devices = serializers.ListField(child=serializers.DictField(), help_text="As reported by ComfyUI")
    gpus = serializers.ListField(child=serializers.DictField(), help_text="As reported by NVIDIA's driver")
    ram_total = serializers.IntegerField(allow_null=True, help_text="Bytes")
    ram_free = serializers.IntegerField(allow_null=True, help_text="Bytes")
    models_loaded = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Null if ComfyUI lacks our bridge"
    )
    running = RunningSerializer(allow_null=True, help_text="Null if nothing is running")
    staged = serializers.UUIDField(allow_null=True, help_text="The execution queued in its ComfyUI")
    started_at = serializers.DateTimeField(help_text="When its process started")
    heartbeat_at = serializers.DateTimeField(help_text="Time of its last heartbeat")
    silent_seconds = serializers.FloatField(help_text="Seconds since its last heartbeat")
