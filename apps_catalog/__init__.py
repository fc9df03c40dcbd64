"""Apps: workflows saved under a name, with typed inputs and named outputs, for others to run.

May import: workflows and everything below it. Begin with `catalog` (saving and finding apps), then `running`.
"""
