"""Uploads and outputs: storage, ids, expiry, signed links.

May import: accounts, comfyserve. Start with `storing`; `backend` is the storage itself (a directory or S3).
What editors keep for their users is in `user_data`.
"""
