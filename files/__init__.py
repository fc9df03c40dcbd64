"""Uploads and outputs: storage, ids, expiry, signed links."""
