"""Fault injection into a whole ComfyServe: see `script/local/faults.py` for the command."""
