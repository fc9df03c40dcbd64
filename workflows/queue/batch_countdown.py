"""Counts down batches when executions end. Separate from `batches` because the state machine calls it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import connection, transaction

from workflows import notify


def note_ended(ids: Sequence[UUID]) -> None:
    """Decrement `remaining` of the batches of these executions; for a batch that reaches zero, add its
    webhook to the outbox, attached to its last execution.

    Runs in the transaction that ends the executions; the batch row is locked after the execution rows.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NOTE_ENDED, {"ids": list(ids)})
        if cursor.rowcount:
            transaction.on_commit(notify.wake_webhooks)


_NOTE_ENDED = """
WITH ended AS (
    SELECT batch_id, count(*) AS number, max(id::text)::uuid AS last FROM workflows_execution
    WHERE id = ANY(%(ids)s) AND batch_id IS NOT NULL GROUP BY batch_id
), counted AS (
    UPDATE workflows_batch b SET remaining = b.remaining - ended.number,
        completed_at = CASE WHEN b.remaining <= ended.number THEN statement_timestamp() END
    FROM ended WHERE b.id = ended.batch_id
    RETURNING b.user_id, b.remaining, b.webhook_url, b.webhook_host, ended.last
)
INSERT INTO workflows_delivery (execution_id, user_id, event, message_id, url, host, state, error)
SELECT last, user_id, 'batch.completed', 'msg_' || replace(gen_random_uuid()::text, '-', ''),
    webhook_url, webhook_host, 'waiting', ''
FROM counted WHERE remaining <= 0 AND webhook_url <> ''
ON CONFLICT DO NOTHING
"""
