"""Executions as users read them: fetched with permission, and shaped for answers, webhooks and streams.

May import: models. Begin with `selectors` (fetching and lists), then `representations` (the answer).
"""
