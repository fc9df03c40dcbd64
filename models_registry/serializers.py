"""Shapes of requests and responses about models."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from comfyserve.api.fields import FlagField

TYPE_HELP = (
    "checkpoint, lora, embedding, vae, controlnet, upscaler, or ComfyUI's name of another folder of models, "
    "such as diffusion_models"
)


class TypeQuery(serializers.Serializer[Any]):
    model_type = serializers.CharField(required=False, max_length=50, help_text=TYPE_HELP)


class ListQuery(TypeQuery):
    available_only = FlagField(default=False, help_text="Only models that a worker has")


class DownloadQuery(serializers.Serializer[Any]):
    model_type = serializers.CharField(max_length=50, help_text=TYPE_HELP)
    download_url = serializers.CharField(max_length=8192, help_text="URL of the file")
    description = serializers.CharField(
        required=False, max_length=2000, help_text="Free text; shown in its status"
    )
    sha256 = serializers.CharField(required=False, max_length=64, help_text="SHA-256 of the expected file")
    worker = serializers.CharField(
        required=False, max_length=200, help_text="Only to this worker; default: to all that lack it"
    )


class LoadQuery(serializers.Serializer[Any]):
    model_type = serializers.CharField(max_length=50, help_text=TYPE_HELP)
    worker = serializers.CharField(
        required=False, max_length=200, help_text="On this worker; default: where most memory is free"
    )


class UnloadQuery(TypeQuery):
    worker = serializers.CharField(required=False, max_length=200, help_text="Only on this worker")
    keep_in_ram = FlagField(default=False, help_text="Remove it from the device, but keep it in RAM")


class CleanupQuery(serializers.Serializer[Any]):
    max_age_hours = serializers.IntegerField(
        default=1, min_value=1, max_value=24, help_text="Hours since its last use"
    )
    worker = serializers.CharField(required=False, max_length=200, help_text="Only on this worker")


# -- answers -------------------------------------------------------------------------------------------
class ModelSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="With subfolders, such as sdxl/base.safetensors")
    type = serializers.CharField(help_text=TYPE_HELP)
    is_loaded = serializers.BooleanField(help_text="In the device memory of a worker")
    is_downloading = serializers.BooleanField(help_text="Being downloaded to a worker")
    download_progress = serializers.FloatField(allow_null=True, help_text="0 to 1")
    last_used = serializers.DateTimeField(allow_null=True, help_text="By an execution")
    memory_usage_mb = serializers.FloatField(
        allow_null=True, help_text="In device memory; null if not loaded"
    )


class ModelListSerializer(serializers.Serializer[Any]):
    models = ModelSerializer(many=True, help_text="By type and name")
    total_memory_usage_mb = serializers.FloatField(
        help_text="Device memory used by all models on all workers"
    )
    available_memory_mb = serializers.FloatField(help_text="Free device memory of all workers")
    note = serializers.CharField(required=False, help_text="Limitations of this information")


class OnWorkerSerializer(serializers.Serializer[Any]):
    worker = serializers.CharField(help_text="Its name")
    is_alive = serializers.BooleanField(help_text="The worker is alive and its ComfyUI responds")
    is_loaded = serializers.BooleanField(help_text="In its device memory")
    memory_usage_mb = serializers.FloatField(allow_null=True, help_text="In its device memory")
    ram_usage_mb = serializers.FloatField(allow_null=True, help_text="In RAM only")
    file_path = serializers.CharField(help_text="There")
    file_size_mb = serializers.FloatField(help_text="Of 1,000,000 bytes")
    hash = serializers.CharField(allow_null=True, help_text="SHA-256; null until computed")


class ModelStatusSerializer(ModelSerializer):
    file_size_mb = serializers.FloatField(allow_null=True, help_text="Of 1,000,000 bytes")
    file_path = serializers.CharField(allow_null=True, help_text="On the first worker that has it")
    hash = serializers.CharField(allow_null=True, help_text="SHA-256; null until computed")
    description = serializers.CharField(allow_null=True, help_text="As given with the download")
    is_available = serializers.BooleanField(help_text="A live worker has it")
    workers = OnWorkerSerializer(many=True, help_text="Each worker that has it, live ones first")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        metadata = serializers.DictField(help_text="Metadata from the file's header")
        return {**super().get_fields(), "metadata": metadata}


def _waiting_for() -> serializers.ListField:
    about = "With 202: the workers that will execute it later"
    return serializers.ListField(child=serializers.CharField(), required=False, help_text=about)


class ModelDoneSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="Description of the result")
    model_name = serializers.CharField(help_text="Name of the model")
    model_type = serializers.CharField(required=False, help_text="Its type")
    workers = serializers.ListField(child=serializers.CharField(), required=False, help_text="Where")
    memory_usage_mb = serializers.FloatField(required=False, help_text="Its size in device memory")
    waiting_for = _waiting_for()
    note = serializers.CharField(required=False, help_text="What could not be done, or is unknown")


class ModelsCleanedSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(help_text="Description of the result")
    models_unloaded = serializers.ListField(child=serializers.CharField(), help_text="Their names")
    waiting_for = _waiting_for()
    note = serializers.CharField(required=False, help_text="What could not be done, or is unknown")


class DownloadProgressSerializer(serializers.Serializer[Any]):
    model_name = serializers.CharField(help_text="Name of the model")
    is_downloading = serializers.BooleanField(help_text="Being downloaded to a worker")
    download_progress = serializers.FloatField(allow_null=True, help_text="0 to 1, of the slowest worker")
    is_available = serializers.BooleanField(help_text="A live worker has it")
    status = serializers.CharField(
        required=False, help_text="waiting, running, done, failed or cancelled; of the slowest worker"
    )
    bytes_done = serializers.IntegerField(required=False, help_text="Bytes downloaded so far")
    bytes_total = serializers.IntegerField(
        required=False, allow_null=True, help_text="Null if the source does not say"
    )
    error = serializers.CharField(required=False, allow_null=True, help_text="Why the download failed")
