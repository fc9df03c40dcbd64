"""What every page of the admin shares; apps build their own pages on it.

    navigation        the sidebar
    admin             base classes of pages of rows
    confirm_actions   actions with a confirmation page, on one object or on many
    paging            counts that stay cheap on big tables
    html              badges, progress bars, thumbnails, durations

It imports no app. `accounts.audited_console` adds the audit log, `health.dashboard` is the first page.
"""
