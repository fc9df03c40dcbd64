"""Uploads and outputs: storage, ids, expiry, signed links.

May import: accounts, comfyserve. Begin with `storing`; `backend` is the storage itself (a directory or S3).
"""
