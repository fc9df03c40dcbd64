"""Executions as users read them: fetched with permission, and rendered for responses, webhooks and streams.

May import: metrics, notify, models. Begin with `selectors` (fetching and lists), then `representations`
(rendering).
"""
