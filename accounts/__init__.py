"""Users, sessions, tokens, API keys, quotas, idempotency keys and the audit log.

May import: comfyserve. Start with `authentication` (who is calling), then `models`.
"""
