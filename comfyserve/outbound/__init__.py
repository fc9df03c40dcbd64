"""The one guarded way out: resolve, check and pin an address, with limits of size and time.

Imports nothing of the apps. Begin with `client`.
"""
