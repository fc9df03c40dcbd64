"""The operator's console: what every page of the admin shares. Apps build their own pages on it.

    navigation   the sidebar
    admin        what a read-only page of rows starts from
    asking       actions that ask first, on one object or on many
    paging       counts that stay cheap on big tables
    parts        badges, progress bars, thumbnails, durations

It knows no app; the dashboard, which reads from all of them, is `health.dashboard`.
"""
