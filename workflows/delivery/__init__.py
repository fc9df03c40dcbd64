"""Delivers outputs to users' destinations: planned at submission, queued with the end, sent with retries.

May import: webhooks and everything below it. Begin with `plan`, then `sender`,
then `redelivery`.
"""
