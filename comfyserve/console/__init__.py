"""Building blocks shared by all admin pages; apps build their own pages on them.

    navigation        the sidebar
    middleware        Django's sessions, logins and messages, for the console alone
    admin             base classes for model pages
    confirm_actions   actions with a confirmation page, for one object or several
    paging            row counts that stay cheap on big tables
    html              badges, progress bars, thumbnails, durations

It imports no app. `accounts.audited_console` adds the audit log, `health.dashboard` is the first page.
"""
