"""All settings, read once from the environment. `docs/configuration.md` has the table for people.

Every knob is an environment variable with a default that works on a laptop. Names of durations end
in their unit. Nothing else in the project reads the environment. What is the same in every installation
is in `framework_settings`.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import environ

from comfyserve import logs, storage_url
from comfyserve.backends import DEFAULT_URL, backend_name
from comfyserve.framework_settings import *  # noqa: F403
from comfyserve.framework_settings import BASE_DIR

env = environ.Env()

# -- basics ---------------------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", default=False)
# No default: starting without a key must fail. script/serve generates one and keeps it in DATA_DIR.
SECRET_KEY = env.str("SECRET_KEY")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["*"])
# Base of the URLs in responses (signed links); empty: taken from the request.
PUBLIC_URL = env.str("PUBLIC_URL", default="").rstrip("/")
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / "var"))).resolve()

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", default=str(DATA_DIR / "static"))).resolve()
WHITENOISE_USE_FINDERS = True  # nothing needs to be collected first
warnings.filterwarnings("ignore", message="No directory at")  # whitenoise, of STATIC_ROOT

# -- PostgreSQL: the only database ------------------------------------------------------------------
DATABASES = {
    "default": env.db_url("DATABASE_URL", default="postgresql://comfyserve@127.0.0.1:5432/comfyserve")
}
# Every wait is bounded: for statements, for locks, for clients that hang inside a transaction.
DATABASE_STATEMENT_TIMEOUT_SECONDS = env.float("DATABASE_STATEMENT_TIMEOUT_SECONDS", default=30.0)
DATABASE_LOCK_TIMEOUT_SECONDS = env.float("DATABASE_LOCK_TIMEOUT_SECONDS", default=5.0)
DATABASE_IDLE_TRANSACTION_SECONDS = env.float("DATABASE_IDLE_TRANSACTION_SECONDS", default=15.0)


def _database_options() -> str:
    """Timeouts as session start options: RESET and SET ... TO DEFAULT restore them."""
    timeouts = {
        "statement_timeout": DATABASE_STATEMENT_TIMEOUT_SECONDS,
        "lock_timeout": DATABASE_LOCK_TIMEOUT_SECONDS,
        "idle_in_transaction_session_timeout": DATABASE_IDLE_TRANSACTION_SECONDS,
    }
    given = str(DATABASES["default"].get("OPTIONS", {}).get("options", ""))
    ours = [f"-c {name}={round(seconds * 1000)}" for name, seconds in timeouts.items()]
    return " ".join([*ours, given]).strip()  # later ones win: options in DATABASE_URL take precedence


DATABASES["default"].update(
    ENGINE="comfyserve.db.postgresql",
    CONN_MAX_AGE=0,  # connections belong to the pool
    DISABLE_SERVER_SIDE_CURSORS=True,
    OPTIONS={
        **DATABASES["default"].get("OPTIONS", {}),
        "pool": {
            "min_size": 1,
            "max_size": env.int("DATABASE_POOL_SIZE", default=20),
            "timeout": env.float("DATABASE_POOL_TIMEOUT_SECONDS", default=2.0),
        },
        # Django switches prepared statements off, for poolers that share sessions. Its own cursors never
        # prepare any: this only affects `comfyserve.db.rows`.
        "prepare_threshold": 5 if env.bool("DATABASE_PREPARED_STATEMENTS", default=True) else None,
        "connect_timeout": 2,
        "options": _database_options(),
        # A network that drops everything is detected within half a minute, not after a quarter of an hour.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 25_000,  # milliseconds
    },
)

# -- Redis: wakes, limits, live events; nothing that must survive ------------------------------------
REDIS_URL = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "OPTIONS": {"socket_connect_timeout": 0.3, "socket_timeout": 1.0},
    },
    "limits": {"BACKEND": "comfyserve.api.rate_limit_cache.CountingCache"},
}

# -- Celery ---------------------------------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL

# -- authentication ---------------------------------------------------------------------------------
ACCESS_TOKEN_MINUTES = env.int("ACCESS_TOKEN_MINUTES", default=30)
REFRESH_TOKEN_DAYS = env.int("REFRESH_TOKEN_DAYS", default=7)
# To rotate a key: the new one in JWT_SIGNING_KEY, the old one in the fallbacks until its tokens have expired.
JWT_SIGNING_KEY = env.str("JWT_SIGNING_KEY", default="") or SECRET_KEY
JWT_SIGNING_KEY_FALLBACKS = env.list("JWT_SIGNING_KEY_FALLBACKS", default=SECRET_KEY_FALLBACKS)
REGISTRATION = env.str("REGISTRATION", default="open")  # or "closed"
AUTHENTICATION_BACKENDS = ["accounts.backends.ThrottledBackend"]
AUDIT_DAYS = env.int("AUDIT_DAYS", default=365)  # how long the audit log is kept; 0: forever
# E-mail is off until EMAIL_URL names a server, such as smtp+tls://user:password@mail.example.com:587.
EMAIL_HOST = ""
if env.str("EMAIL_URL", default=""):
    vars().update(env.email_url("EMAIL_URL"))
EMAIL_TIMEOUT = 10.0  # seconds without an answer of that server
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="comfyserve@localhost")
# The page of your front end that takes the token, such as https://example.com/reset?token={token}.
PASSWORD_RESET_PAGE = env.str("PASSWORD_RESET_PAGE", default="")
PASSWORD_RESET_TIMEOUT = env.int("PASSWORD_RESET_SECONDS", default=3600)

# -- limits -----------------------------------------------------------------------------------------
RATE_LIMITS = env.str("RATE_LIMITS", default="60/m,1000/h,10000/d")  # or "off"
# Accounts registered from one address; 0: no limit.
REGISTRATIONS_PER_HOUR = env.int("REGISTRATIONS_PER_HOUR", default=0 if RATE_LIMITS == "off" else 20)
RATELIMIT_USE_CACHE = "limits"
# django-ratelimit's own defaults. It reads them for every window of every request, and looking up a setting
# that is missing costs ten times as much.
RATELIMIT_ENABLE = True
RATELIMIT_CACHE_PREFIX = "rl:"
RATELIMIT_HASH_ALGORITHM = hashlib.sha256
# Number of trusted proxies in front: the client's address is that far from the right of X-Forwarded-For.
# 0: the header is ignored.
TRUSTED_PROXY_HOPS = env.int("TRUSTED_PROXY_HOPS", default=0)
# To each web process from one address; behind a proxy, the proxy has to limit them. 0: no limit.
CONNECTIONS_PER_CLIENT = env.int("CONNECTIONS_PER_CLIENT", default=200)
# Of bodies with graphs and of uploads; other routes accept 64 KiB: see api/gate/routes.py.
MAX_BODY_BYTES = env.int("MAX_BODY_BYTES", default=10 * 1024 * 1024)
MAX_UPLOAD_BYTES = env.int("MAX_UPLOAD_BYTES", default=2 * 1024**3)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
# Per user; a row of UserLimits overrides them for one user. 0: no limit.
QUOTA_EXECUTIONS_WAITING = env.int("QUOTA_EXECUTIONS_WAITING", default=0)
QUOTA_EXECUTIONS_PER_DAY = env.int("QUOTA_EXECUTIONS_PER_DAY", default=0)
QUOTA_EXECUTIONS_RUNNING = env.int("QUOTA_EXECUTIONS_RUNNING", default=0)
QUOTA_STORAGE_BYTES = env.int("QUOTA_STORAGE_BYTES", default=0)

# -- browsers ---------------------------------------------------------------------------------------
_origins = env.list("CORS_ALLOWED_ORIGINS", default=[])  # or "*"
CORS_ALLOW_ALL_ORIGINS = "*" in _origins
CORS_ALLOWED_ORIGINS = [origin for origin in _origins if origin != "*"]
HTTPS = env.bool("HTTPS", default=False)  # the service is reached by https only, perhaps through a proxy
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = ["^health/", "^metrics"]  # probes come from the internal network, over http
    SECURE_HSTS_SECONDS = env.int("HSTS_SECONDS", default=365 * 24 * 3600)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
# -- the operator's console -------------------------------------------------------------------------
FLOWER_URL = env.str("FLOWER_URL", default="")  # linked from the console; such as /flower/

# -- files ------------------------------------------------------------------------------------------
# file:///folder or s3://key:secret@host:port/bucket; empty: DATA_DIR/files. See comfyserve/storage_url.py.
STORAGE_URL = env.str("STORAGE_URL", default="")
SIGNED_LINK_SECONDS = env.int("SIGNED_LINK_SECONDS", default=24 * 3600)
STORAGES = {
    "default": storage_url.parse(STORAGE_URL, default=DATA_DIR / "files", link_seconds=SIGNED_LINK_SECONDS),
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
# Files being uploaded. On the same disk as the storage they are moved, not copied.
INCOMING_DIR = Path(env.str("INCOMING_DIR", default=str(DATA_DIR / "incoming"))).resolve()
DECODER_MEMORY_BYTES = env.int("DECODER_MEMORY_BYTES", default=2 * 1024**3)  # of a decoding process
FILE_EXPIRY_DAYS = env.int("FILE_EXPIRY_DAYS", default=7)  # 0: never
MAX_PICTURE_PIXELS = env.int("MAX_PICTURE_PIXELS", default=178_956_970)  # Pillow's own limit, as in ComfyUI
# A file is converted in a process of its own, with these limits.
CONVERSION_SECONDS = env.float("CONVERSION_SECONDS", default=120.0)
CONVERSION_MEMORY_BYTES = env.int("CONVERSION_MEMORY_BYTES", default=4 * 1024**3)  # of address space
CONVERTED_KEPT_DAYS = env.float(
    "CONVERTED_KEPT_DAYS", default=7
)  # files converted for a download; 0: forever
# An input given by URL: seconds in total. Its size: MAX_UPLOAD_BYTES.
INPUT_FETCH_SECONDS = env.int("INPUT_FETCH_SECONDS", default=120)
# A file transferred to a ComfyUI is kept for later executions with the same input; seconds since last use.
COMFYUI_INPUTS_KEPT_SECONDS = env.int("COMFYUI_INPUTS_KEPT_SECONDS", default=3600)

# -- outbound requests to addresses from users --------------------------------------------------------
# Hosts, *.domains, addresses and networks that are allowed although not public.
OUTBOUND_ALLOW = env.list("OUTBOUND_ALLOW", default=[])

# -- ComfyUI and the GPU workers ----------------------------------------------------------------------
COMFYUI_URL = env.str("COMFYUI_URL", default=DEFAULT_URL).rstrip("/")
COMFYUI_NAME = env.str("COMFYUI_NAME", default="")
# Unique in the fleet; the queue of this backend's own tickets is `gpu.<BACKEND_NAME>`.
BACKEND_NAME = backend_name(name=COMFYUI_NAME, url=COMFYUI_URL)
COMFYUI_HEADERS = env.json("COMFYUI_HEADERS", default={})

# -- models -------------------------------------------------------------------------------------------
MODEL_MANAGEMENT = env.str("MODEL_MANAGEMENT", default="authenticated")  # or "staff"
# How long a request to load or unload waits for the GPU before the response is 503; the command still runs.
MODEL_COMMAND_SECONDS = env.float("MODEL_COMMAND_SECONDS", default=20.0)
MODEL_SCAN_SECONDS = env.float("MODEL_SCAN_SECONDS", default=30.0)  # between scans of the model files
# Downloads. Loading a pickle (.ckpt, .pt, ...) runs code that is in it.
MODEL_ALLOW_PICKLES = env.bool("MODEL_ALLOW_PICKLES", default=False)
MODEL_DOWNLOADS_AT_ONCE = env.int("MODEL_DOWNLOADS_AT_ONCE", default=2)  # per worker
MODEL_DOWNLOAD_MAX_BYTES = env.int("MODEL_DOWNLOAD_MAX_BYTES", default=200 * 1024**3)  # of one file
MODEL_STORAGE_BYTES = env.int("MODEL_STORAGE_BYTES", default=0)  # of all models on one worker; 0: no limit
MODEL_DISK_RESERVE_BYTES = env.int("MODEL_DISK_RESERVE_BYTES", default=2 * 1024**3)  # free disk space to keep
MODEL_STALL_SECONDS = env.float("MODEL_STALL_SECONDS", default=60.0)  # without a byte from the source
# Sent only to their own hosts and over https, for downloads of the users that MODEL_TOKENS allows.
MODEL_TOKENS = env.str("MODEL_TOKENS", default="staff")  # or "authenticated"
HUGGINGFACE_TOKEN = env.str("HUGGINGFACE_TOKEN", default="")
CIVITAI_TOKEN = env.str("CIVITAI_TOKEN", default="")
MODEL_HASH_BYTES_PER_SECOND = env.int("MODEL_HASH_BYTES_PER_SECOND", default=100 * 1024**2)

# -- executions ---------------------------------------------------------------------------------------
LEASE_SECONDS = env.int("LEASE_SECONDS", default=20)  # how long a claim is valid without a renewal
RENEW_SECONDS = env.int("RENEW_SECONDS", default=4)
# How long an expired claim that was posted to ComfyUI is reserved for that ComfyUI's next worker.
RESERVED_SECONDS = env.int("RESERVED_SECONDS", default=60)
LOOK_SECONDS = env.float("LOOK_SECONDS", default=2.0)  # poll interval of a free slot
DRAIN_SECONDS = env.int("DRAIN_SECONDS", default=30)
STALL_SECONDS = env.int("STALL_SECONDS", default=120)  # a silent ComfyUI is considered dead after this
# How long an interrupted workflow may take to end; then the bridge restarts ComfyUI.
HANG_SECONDS = env.float("HANG_SECONDS", default=30.0)
MAX_PENDING = env.int("MAX_PENDING", default=100_000)
MAX_PENDING_HOURS = env.int("MAX_PENDING_HOURS", default=48)
MAX_NODES = env.int("MAX_NODES", default=2_000)
DEFAULT_TIMEOUT_MINUTES = env.int("DEFAULT_TIMEOUT_MINUTES", default=30)
MAX_TIMEOUT_MINUTES = env.int("MAX_TIMEOUT_MINUTES", default=1440)
PRIORITY_WEIGHTS = {
    "low": env.float("PRIORITY_WEIGHT_LOW", default=1),
    "normal": env.float("PRIORITY_WEIGHT_NORMAL", default=4),
    "high": env.float("PRIORITY_WEIGHT_HIGH", default=16),
}

# -- retention; 0: forever ----------------------------------------------------------------------------------
# Ended executions with everything that belongs to them, files included; logs and deliveries may go earlier.
EXECUTION_RETENTION_DAYS = env.float("EXECUTION_RETENTION_DAYS", default=90)
LOG_RETENTION_DAYS = env.float("LOG_RETENTION_DAYS", default=30)
WEBHOOK_RETENTION_DAYS = env.float("WEBHOOK_RETENTION_DAYS", default=30)
WORKER_RETENTION_DAYS = env.float("WORKER_RETENTION_DAYS", default=7)  # since the last heartbeat
SESSION_RETENTION_DAYS = env.float(
    "SESSION_RETENTION_DAYS", default=90
)  # after sessions and API keys expired
IDEMPOTENCY_KEY_HOURS = env.float("IDEMPOTENCY_KEY_HOURS", default=24)

# -- health -------------------------------------------------------------------------------------------
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")  # bearer token for /metrics/; empty: public
# After SIGTERM the web process reports "not ready" and keeps serving for this long, for load balancers to
# notice.
SHUTDOWN_DELAY_SECONDS = env.float("SHUTDOWN_DELAY_SECONDS", default=0.0)

# -- webhooks -------------------------------------------------------------------------------------------
WEBHOOK_HTTPS_ONLY = env.bool("WEBHOOK_HTTPS_ONLY", default=not DEBUG)
WEBHOOK_TIMEOUT_SECONDS = env.float("WEBHOOK_TIMEOUT_SECONDS", default=10.0)
WEBHOOK_FIRST_DELAY_SECONDS = env.float("WEBHOOK_FIRST_DELAY_SECONDS", default=5.0)  # doubles with each try
WEBHOOK_RETRY_HOURS = env.float("WEBHOOK_RETRY_HOURS", default=24)
WEBHOOK_SECRET_OVERLAP_HOURS = env.float("WEBHOOK_SECRET_OVERLAP_HOURS", default=24)

# -- live streams -------------------------------------------------------------------------------------
EVENTS_LINK_SECONDS = env.int("EVENTS_LINK_SECONDS", default=3600)  # how long an events_url stays valid
STREAMS_PER_USER = env.int("STREAMS_PER_USER", default=100)  # in one web process; 0: no limit
SLOW_READER_SECONDS = env.float(
    "SLOW_READER_SECONDS", default=30.0
)  # without reading anything; then disconnected
MAX_WAIT_SECONDS = env.int("MAX_WAIT_SECONDS", default=120)  # of Prefer: wait

# -- doors --------------------------------------------------------------------------------------------
# Other names of apps in /v1, such as gpt-image-1=alice/portrait,dall-e-3=alice/portrait
OPENAI_MODELS = env.dict("OPENAI_MODELS", default={})
# Host names that serve ComfyUI's routes at the root, without the /comfyui prefix
COMFYUI_DOOR_HOSTS = [name.lower() for name in env.list("COMFYUI_DOOR_HOSTS", default=[])]
OPENAI_WAIT_SECONDS = env.int(
    "OPENAI_WAIT_SECONDS", default=600
)  # for the images; then the execution is cancelled

# -- logs ---------------------------------------------------------------------------------------------
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO").upper()
# json, line, or auto: lines for a terminal (and with DEBUG), JSON for everything else
LOG_FORMAT = logs.chosen_format(env.str("LOG_FORMAT", default="auto"), debug=DEBUG)
_QUIET = "DEBUG" if LOG_LEVEL == "DEBUG" else "WARNING"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "context": {"()": "comfyserve.logs.Context"},
        "crashes": {"()": "comfyserve.logs.OnlyCrashes"},
    },
    "formatters": {"json": {"()": "comfyserve.logs.Json"}, "line": {"()": "comfyserve.logs.Line"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["context"]}
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        # The server's own handlers are removed; its records propagate to ours.
        "uvicorn": {"handlers": [], "propagate": True, "level": LOG_LEVEL},
        "uvicorn.error": {"handlers": [], "propagate": True},
        "uvicorn.access": {
            "handlers": [],
            "propagate": False,
        },  # comfyserve.requests logs it with more detail
        "django.request": {"filters": ["crashes"]},
        # At DEBUG it writes the signatures of the links that it makes.
        "botocore.auth": {"level": "INFO"},
        "celery.beat": {"level": _QUIET},
        # That a task was received and succeeded. Its effects have log lines of their own.
        "celery.worker.strategy": {"level": _QUIET},
        "celery.app.trace": {"level": _QUIET},
    },
}
