"""Outgoing webhooks: the outbox written with each status change, signing, and delivery with retries.

May import: presentation, metrics, notify, models. Begin with `outbox`, then `dispatcher`.
"""
