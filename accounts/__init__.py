"""Users, sessions, tokens, API keys, quotas, idempotency keys and the audit log.

May import: comfyserve. Begin with `authentication` (who is asking), then `models`.
"""
