"""A worker's reports on its ComfyUI: its model files, and which of them are in memory."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from comfyui import Client
from comfyui import bridge as bridges
from comfyui.bridge import Bridge, Memory, ModelFolder

from . import kinds
from .models import Host, Model, ModelFile

logger = logging.getLogger(__name__)

BATCH = 500  # rows per statement
Key = tuple[str, str]  # (type, name)


def report(host: str, client: Client) -> None:
    """Both reports: after a (re)connection. Raises comfyui.Unreachable, and database errors."""
    report_memory(host, client)
    report_files(host, client)


# -- files ---------------------------------------------------------------------------------------------
def report_files(host: str, client: Client) -> int:
    """Write changes of its model files; the number of changed rows."""
    try:
        folders = Bridge(client).files()
    except bridges.NoBridge as exc:
        logger.warning("model files of backend %s are not known: %s", host, exc)
        return 0
    return write_files(host, folders)


def write_files(host: str, folders: Sequence[ModelFolder]) -> int:
    """Only rows that differ are written; a changed file loses its hash and metadata, to be read again."""
    found: dict[Key, bridges.ModelFile] = {}
    for folder in folders:
        for file in folder.files:
            found.setdefault((kinds.type_of(folder.name), file.name), file)
    known = {
        (type_, name): (pk, path, size, changed)
        for pk, type_, name, path, size, changed in ModelFile.objects.filter(host_id=host).values_list(
            "pk", "model__type", "model__name", "path", "size", "changed"
        )
    }
    with transaction.atomic():
        Host.objects.filter(name=host).update(places={folder.name: folder.places for folder in folders})
        gone = [known[key][0] for key in known.keys() - found.keys()]
        changed = {
            key: file
            for key, file in found.items()
            if key in known and known[key][1:] != (file.path, file.size, file.changed)
        }
        fresh = {key: file for key, file in found.items() if key not in known}
        _add(host, fresh)
        for key, file in changed.items():
            _change(known[key][0], file)
        ModelFile.objects.filter(pk__in=gone).delete()
        if gone:
            _forget_models(key for key in known.keys() - found.keys())
    return len(gone) + len(changed) + len(fresh)


def _add(host: str, files: dict[Key, bridges.ModelFile]) -> None:
    rows = [Model(type=type_, name=name) for type_, name in files]
    Model.objects.bulk_create(rows, BATCH, ignore_conflicts=True)
    ids = models_by_key(files)
    ModelFile.objects.bulk_create(
        [
            ModelFile(
                model_id=ids[key],
                host_id=host,
                folder=kinds.LEGACY.get(file.folder, file.folder),
                path=file.path,
                size=file.size,
                changed=file.changed,
            )
            for key, file in files.items()
            if key in ids
        ],
        BATCH,
        ignore_conflicts=True,
    )


def models_by_key(keys: Iterable[Key]) -> dict[Key, int]:
    """Their ids, created if missing, in one query for each thousand."""
    wanted = set(keys)
    names = sorted({name for _, name in wanted})
    found: dict[Key, int] = {}
    for i in range(0, len(names), 1000):
        rows = Model.objects.filter(name__in=names[i : i + 1000]).values_list("type", "name", "pk")
        found.update({(type_, name): pk for type_, name, pk in rows if (type_, name) in wanted})
    return found


def _change(pk: int, file: bridges.ModelFile) -> None:
    ModelFile.objects.filter(pk=pk).update(
        path=file.path, size=file.size, changed=file.changed, sha256="", metadata=None
    )


def _forget_models(keys: Iterable[Key]) -> None:
    """Models that no host has or downloads any more."""
    for type_, name in keys:
        Model.objects.filter(type=type_, name=name, files__isnull=True, downloads__isnull=True).delete()


# -- memory --------------------------------------------------------------------------------------------
def report_memory(host: str, client: Client) -> None:
    """Write what its ComfyUI holds in memory. Without our bridge only the totals that ComfyUI reports."""
    bridge = Bridge(client)
    if bridge.info() is not None:
        write_memory(host, bridge.memory())
        return
    stats = client.system_stats()
    total = sum(device.vram_total for device in stats.devices)
    free = sum(device.vram_free for device in stats.devices)
    used = sum(device.torch_vram_total - device.torch_vram_free for device in stats.devices)
    on_gpu = any(device.type != "cpu" for device in stats.devices)
    _write_host(
        host, bridge=False, total_bytes=total, free_bytes=free, used_bytes=max(0, used) if on_gpu else 0
    )
    ModelFile.objects.filter(_in_memory, host_id=host).update(loaded_bytes=0, ram_bytes=0, loaded_at=None)


_in_memory = Q(loaded_bytes__gt=0) | Q(ram_bytes__gt=0)


def write_memory(host: str, memory: Memory) -> None:
    """Rows of files that were loaded, unloaded, or changed their size in memory."""
    _write_host(
        host,
        bridge=True,
        boot=memory.boot_id,
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        used_bytes=sum(model.loaded_bytes for model in memory.models),
        process_bytes=memory.process_bytes,
    )
    now = timezone.now()
    held = _by_file(memory)
    before = {
        (row.folder, row.model.name): row
        for row in ModelFile.objects.filter(_in_memory, host_id=host)
        .select_related("model")
        .defer("metadata")
    }
    for file, row in before.items():
        on_device, in_ram = held.pop(file, (0, 0))
        if (on_device, in_ram) != (row.loaded_bytes, row.ram_bytes):
            since = row.loaded_at if on_device or in_ram else None
            ModelFile.objects.filter(pk=row.pk).update(
                loaded_bytes=on_device, ram_bytes=in_ram, loaded_at=since
            )
    for (folder, name), (on_device, in_ram) in held.items():
        ModelFile.objects.filter(host_id=host, folder=folder, model__name=name).update(
            loaded_bytes=on_device, ram_bytes=in_ram, loaded_at=now
        )


def _by_file(memory: Memory) -> dict[tuple[str, str], tuple[int, int]]:
    """(folder, name) -> bytes on the device, bytes in RAM only.

    A checkpoint's models are added up; a model made from several files is divided equally among them, so that
    the total is the memory really used.
    """
    on_device: dict[tuple[str, str], int] = defaultdict(int)
    in_ram: dict[tuple[str, str], int] = defaultdict(int)
    for model in memory.models:
        for file in model.files:
            on_device[file] += model.loaded_bytes // len(model.files)
            in_ram[file] += max(0, model.size_bytes - model.loaded_bytes) // len(model.files)
    return {file: (on_device[file], in_ram[file]) for file in on_device}


def _write_host(host: str, **columns: object) -> None:
    Host.objects.update_or_create(name=host, defaults={**columns, "reported_at": Now()})
