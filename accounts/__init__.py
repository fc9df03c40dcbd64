"""Users, sessions, tokens, API keys, quotas."""
