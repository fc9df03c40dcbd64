"""Fills a database with ended executions and everything that belongs to them, as use would have left it.

Each has a graph, two log lines, one output with its file, and a place in a batch of ten. A tenth of them ran one
of four apps, a tenth was asked for as a video, and a tenth was reported to a webhook. Another tenth has labels:
one that all of these have, one of four teams, the half of the executions it belongs to, and a project, which
changes with every thousand executions of a user. A quarter of the other users' failed; none of `asker`'s did, but
a tenth was cancelled. The newest tenth ended in the last day, the rest a year ago and earlier; only older ones of
other users used `model21`.
"""

from __future__ import annotations

import json
import os

import psycopg

from script.harness import graphs

USERS = 10  # one of them is `asker`
# As comfyserve.ids.uuid7, with the digits of a hash instead of random ones.
UUID7 = """
    CREATE FUNCTION pg_temp.uuid7(at timestamptz, hash text) RETURNS uuid RETURN (lpad(to_hex(
        (1000 * extract(epoch FROM at))::bigint), 12, '0') || '7' || left(hash, 3) || '8' || right(hash, 15))::uuid
"""
# Row n of each user, the newest with the highest n; ordered, so that the rows of all users are mixed in the table.
EXECUTIONS = """
    INSERT INTO workflows_execution (id, user_id, status, error, failure_cause, priority, timeout_minutes,
        request_id, turn, start, finish, cost, worker, attempt, boot, faults, returns, excluded, current_step,
        total_steps, percentage, kind, models_used, metadata, app, batch_id, batch_position, webhook_url, warnings,
        created_at, claimed_at, started_at, completed_at, gpu_seconds)
    SELECT pg_temp.uuid7(created.at, md5(u.id || '-' || n)), u.id, s.status, CASE s.status WHEN 'failed' THEN 'Node 3 raised ' || n END,
        CASE s.status WHEN 'failed' THEN 'node' END, 'normal', 30, '', n * 7.5 + 2.5, n * 7.5, (n + 1) * 7.5,
        30, 'gpu-' || n %% 4, 1, '', 0, 0, '{}', 0, 0, 100, 'kind' || n %% 20,
        jsonb_build_array(jsonb_build_object('name',
            'model' || CASE WHEN u.username <> 'asker' AND n %% 20 = 7 AND n <= %(most)s / 2 THEN 21 ELSE n %% 20 END)),
        CASE n %% 10 WHEN 1 THEN jsonb_build_object('project', 'p' || (%(most)s - n) / 1000, 'site', 's',
            'team', 't' || n / 10 %% 4, 'half', CASE WHEN n > %(most)s / 2 THEN 'new' ELSE 'old' END)
            WHEN 4 THEN jsonb_build_object('openai_video', jsonb_build_object('prompt', 'a')) ELSE '{}' END,
        CASE n %% 10 WHEN 2 THEN jsonb_build_object('name', 'asker/app' || n / 10 %% 4,
            'version', 1, 'outputs', '{}'::jsonb, 'files', '[]'::jsonb, 'hidden_from', NULL) END,
        pg_temp.uuid7(created.at - n %% 10 * interval '1 minute', md5(u.id || '-' || n / 10)), n %% 10, '', '[]',
        created.at,
        ended.at - interval '30 seconds', ended.at - interval '30 seconds', ended.at, 30
    FROM generate_series(1, %(most)s) AS n
        JOIN accounts_user AS u ON n > %(most)s - CASE u.username WHEN 'asker' THEN %(own)s ELSE %(others)s END,
        LATERAL (SELECT now() - CASE WHEN n > %(most)s - %(most)s / 10
            THEN (%(most)s - n) * interval '1 day' / (%(most)s / 10)
            ELSE interval '1 year' + (%(most)s - n) * interval '1 minute' END AS at) AS ended,
        LATERAL (SELECT ended.at - interval '50 seconds' AS at) AS created,
        LATERAL (SELECT CASE WHEN u.username = 'asker' AND n %% 10 = 9 THEN 'cancelled'
            WHEN u.username <> 'asker' AND n %% 4 = 3 THEN 'failed' ELSE 'completed' END AS status) AS s
    ORDER BY n, u.id
"""
BATCHES = """
    INSERT INTO workflows_batch (id, user_id, total, remaining, created_at, completed_at, app, metadata,
        webhook_url, webhook_host, webhook_base)
    SELECT batch_id, user_id, count(*), 0, min(created_at), max(completed_at), '', '{}', '', '', ''
    FROM workflows_execution GROUP BY 1, 2
"""
GRAPHS = """
    INSERT INTO workflows_graph (execution_id, submitted, prompt)
    SELECT id, graph, graph FROM workflows_execution, (SELECT %s::jsonb AS graph) AS given
"""
LOG_LINES = """
    INSERT INTO workflows_logline (execution_id, timestamp, level, message)
    SELECT id, completed_at, 'INFO', message
    FROM workflows_execution, unnest(ARRAY['Started on gpu', 'Workflow completed successfully']) AS message
    ORDER BY completed_at
"""
FILES = """
    INSERT INTO files_file (id, user_id, kind, filename, description, content_type, size, sha256, key,
        thumbnail_key, width, height, created_at, expires_at)
    SELECT 'file_' || replace(id::text, '-', ''), user_id, CASE batch_position WHEN 5 THEN 'upload' ELSE 'output' END, 'a.png',
        '', 'image/png', 1000, md5(id::text),
        'outputs/' || right(id::text, 2) || '/' || replace(id::text, '-', ''), '', 16, 16, completed_at,
        now() + interval '7 days'
    FROM workflows_execution ORDER BY completed_at
"""
OUTPUTS = """
    INSERT INTO workflows_output (execution_id, position, "group", node_id, subfolder, temporary, file_id)
    SELECT id, 0, 'images', '2', '', false, 'file_' || replace(id::text, '-', '')
    FROM workflows_execution ORDER BY completed_at
"""
DELIVERIES = """
    INSERT INTO workflows_delivery (execution_id, user_id, event, message_id, url, host, state, error, created_at)
    SELECT id, user_id, 'workflow.completed', 'msg_' || md5(id::text), 'https://example.com/', 'example.com:443',
        'delivered', '', completed_at
    FROM workflows_execution WHERE batch_position = 3 ORDER BY completed_at
"""
# Statements that drop and make each index of the tables filled here, but for those of constraints.
INDEXES = """
    SELECT format('DROP INDEX %I', index.relname), pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class index ON index.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relname IN ('workflows_execution', 'workflows_logline', 'workflows_output', 'files_file')
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
"""


def fill(*, own: int, others: int) -> None:
    """So many executions for `asker`, and so many for each other user. Returns when PostgreSQL is at rest."""
    from django.utils import timezone

    from accounts.models import User
    from models_registry.models import Model
    from workflows.models import Worker

    names = ["asker", *(f"user{number}" for number in range(1, USERS))]
    User.objects.bulk_create(User(username=name, email=f"{name}@example.com") for name in names)
    # What the console's filters offer. No execution knows of gpu-4 and model20.
    Worker.objects.bulk_create(Worker(name=f"gpu-{n}", host="h", pid=1, url="http://x") for n in range(5))
    Model.objects.bulk_create(
        Model(name=f"model{n}", type="checkpoints", last_used=timezone.now()) for n in range(22)
    )
    # Not Django's connection, whose statements have a deadline.
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # skips the checks of foreign keys
        indexes = connection.execute(INDEXES).fetchall()
        for drop, _ in indexes:  # made again below, which is faster than to add a million rows to each
            connection.execute(drop)
        connection.execute(UUID7)
        connection.execute(EXECUTIONS, {"own": own, "others": others, "most": max(own, others)})
        connection.execute(GRAPHS, [json.dumps(graphs.colour(1))])
        for statement in (BATCHES, LOG_LINES, FILES, OUTPUTS, DELIVERIES):
            connection.execute(statement)
        for _, make in indexes:
            connection.execute(make)
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
