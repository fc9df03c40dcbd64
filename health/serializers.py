"""Shapes of the health endpoints' answers, for the description of the API."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

CONDITIONS = ("healthy", "degraded", "unhealthy")


class LivenessSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["alive"])
    timestamp = serializers.DateTimeField()


class ReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ready"])


class NotReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["not ready"])
    reason = serializers.CharField()


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=CONDITIONS)
    timestamp = serializers.DateTimeField()
    version = serializers.CharField()
    uptime_seconds = serializers.FloatField(help_text="Of the process that answers")


class ServiceSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(
        help_text="database, redis, comfyui, comfyui:<worker>, storage, celery:<queue>"
    )
    status = serializers.ChoiceField(choices=CONDITIONS)
    response_time_ms = serializers.FloatField(allow_null=True)
    error = serializers.CharField(allow_null=True)


class SystemSerializer(serializers.Serializer[Any]):
    cpu_usage_percent = serializers.FloatField()
    memory_usage_percent = serializers.FloatField()
    gpu_usage_percent = serializers.FloatField(allow_null=True, help_text="Null where no worker has a GPU")
    disk_usage_percent = serializers.FloatField()


class DetailedSerializer(HealthSerializer):
    services = ServiceSerializer(many=True)
    system = SystemSerializer()


class MetricsSerializer(serializers.Serializer[Any]):
    cpu_usage_percent = serializers.FloatField()
    memory_usage_percent = serializers.FloatField()
    gpu_usage_percent = serializers.FloatField(allow_null=True, help_text="Null where no worker has a GPU")
    gpu_memory_usage_percent = serializers.FloatField(allow_null=True)
    disk_usage_percent = serializers.FloatField()
    active_executions = serializers.IntegerField(help_text="That run now")
    queue_size = serializers.IntegerField(help_text="That wait")
    total_executions = serializers.IntegerField(help_text="Ever accepted")
    average_execution_time_seconds = serializers.FloatField(
        allow_null=True, help_text="Of those that were completed; null while there is none"
    )


class RunningSerializer(serializers.Serializer[Any]):
    execution_id = serializers.UUIDField()
    since = serializers.DateTimeField(allow_null=True)


class WorkerSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    status = serializers.ChoiceField(
        choices=["active", "paused", "faulty", "draining", "unreachable", "silent", "stopped"]
    )
    host = serializers.CharField()
    pid = serializers.IntegerField()
    url = serializers.CharField(help_text="Of its ComfyUI, without a password")
    comfyui_version = serializers.CharField()
    devices = serializers.ListField(child=serializers.DictField(), help_text="As ComfyUI tells")
    gpus = serializers.ListField(child=serializers.DictField(), help_text="As NVIDIA's driver tells")
    ram_total = serializers.IntegerField(allow_null=True, help_text="Bytes")
    ram_free = serializers.IntegerField(allow_null=True, help_text="Bytes")
    models_loaded = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="Null where ComfyUI lacks our bridge"
    )
    running = RunningSerializer(allow_null=True)
    staged = serializers.UUIDField(allow_null=True)
    started_at = serializers.DateTimeField()
    heartbeat_at = serializers.DateTimeField()
    silent_seconds = serializers.FloatField(help_text="Since its last heartbeat")
