"""Tables of the metrics for `/metrics/`, written by `workflows.metrics.store`."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Delta(models.Model):
    """One increment of a metric. Insert-only; the sweep folds the rows into `Tally`.

    `store.METRICS` defines the metrics and their labels.
    """

    id = models.BigAutoField(primary_key=True)
    metric = models.CharField(max_length=60)
    labels = ArrayField(models.CharField(max_length=200), default=list)
    bucket = models.IntegerField(default=0, help_text="How many of the metric's bounds lie below the value")
    count = models.BigIntegerField(default=1)
    sum = models.FloatField(default=1)

    def __str__(self) -> str:
        return f"{self.metric} {self.labels} +{self.count}"


class Tally(models.Model):
    """The value of a metric without the deltas that are not folded yet."""

    metric = models.CharField(max_length=60)
    labels = ArrayField(models.CharField(max_length=200), default=list)
    bucket = models.IntegerField(default=0)
    count = models.BigIntegerField()
    sum = models.FloatField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["metric", "labels", "bucket"], name="tally_of_metric")]

    def __str__(self) -> str:
        return f"{self.metric} {self.labels} {self.count}"
