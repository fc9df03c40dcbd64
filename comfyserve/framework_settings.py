"""Fixed configuration of Django, REST framework, Celery and the rest.

`settings` takes all of it. What comes from the environment is there.
"""

from __future__ import annotations

from pathlib import Path

from comfyserve.api import reference_order

BASE_DIR = Path(__file__).resolve().parent.parent

INSTALLED_APPS = [
    # Before unfold, whose templates they may replace.
    "comfyserve.console",
    "health.dashboard",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin.apps.SimpleAdminConfig",  # only the web process needs the pages: see `urls`
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "comfyserve.db",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "accounts",
    "files",
    "models_registry",
    "workflows",
    "apps_catalog",
    "health",
]

MIDDLEWARE = [
    "comfyserve.api.middleware.EnvelopeMiddleware",
    "accounts.middleware.AuditMiddleware",
    "doors.error_shapes.DoorErrorsMiddleware",
    "health.latency.MeasureMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "comfyserve.api.middleware.HostMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "accounts.middleware.RateLimitMiddleware",
    "comfyserve.api.middleware.AdmissionMiddleware",
    "comfyserve.console.middleware.ConsoleSessions",
    "django.middleware.csrf.CsrfViewMiddleware",
    "comfyserve.console.middleware.ConsoleLogins",
    "comfyserve.console.middleware.ConsoleMessages",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "comfyserve.api.middleware.ErrorsMiddleware",
]

ROOT_URLCONF = "comfyserve.urls"
APPEND_SLASH = False  # AdmissionMiddleware answers both spellings without a redirect
WSGI_APPLICATION = "comfyserve.wsgi.application"
ASGI_APPLICATION = "comfyserve.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "comfyserve" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

# -- Celery ---------------------------------------------------------------------------------------
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# Sending a ticket must never fail or slow down a request: the workers poll as well.
CELERY_TASK_PUBLISH_RETRY = False
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_connect_timeout": 0.3,
    "socket_timeout": None,  # redis-py's default of 5 s would end idle blocking reads
    "socket_keepalive": True,
    "health_check_interval": 10,
    "visibility_timeout": 24 * 3600,
}
CELERY_TASK_ROUTES = {
    "workflows.tasks.look_for_work": {"queue": "gpu"},
    "workflows.tasks.deliver_webhooks": {"queue": "webhooks"},
    "models_registry.tasks.*": {"queue": "models"},
}

# Housekeeping only: nothing essential depends on beat. A run that was not taken before the next one is due
# expires: a worker that was down does not find a hundred of them.
CELERY_BEAT_SCHEDULE = {
    f"clean-{app}": {"task": f"{app}.tasks.clean", "schedule": seconds, "options": {"expires": seconds}}
    for app, seconds in {"accounts": 3600.0, "files": 3600.0, "workflows": 600.0}.items()
}

# -- users ------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
PASSWORD_HASHERS = [
    "accounts.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["accounts.authentication.BearerAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["comfyserve.api.rendering.Renderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "comfyserve.api.rendering.Negotiation",
    "DEFAULT_PARSER_CLASSES": ["comfyserve.api.parsers.StrictJSONParser"],
    "EXCEPTION_HANDLER": "comfyserve.api.errors.handle",
    "DEFAULT_SCHEMA_CLASS": "comfyserve.api.schema.Schema",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "URL_FORMAT_OVERRIDE": None,  # no ?format=
}

# -- browsers ---------------------------------------------------------------------------------------
CORS_ALLOW_HEADERS = [
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "prefer",
    "x-request-id",
    "last-event-id",
    # Headers that browsers' tracing and HTTP libraries send, and those for ranges and caches.
    "baggage",
    "cache-control",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "pragma",
    "range",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "x-requested-with",
]
CORS_EXPOSE_HEADERS = [
    "X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After",
    "X-Total-Count", "X-Total-Count-Relation", "Idempotency-Replayed", "Content-Disposition",
    "Preference-Applied", "ETag", "Content-Range", "Accept-Ranges", "Content-Length", "Location",
    "X-Next-Cursor", "X-Total-Count-Relation",
]  # fmt: skip
X_FRAME_OPTIONS = "DENY"

# -- the operator's console -------------------------------------------------------------------------
LOGIN_REDIRECT_URL = "admin:index"  # for who opens the console's login page itself
UNFOLD = {
    "SITE_TITLE": "ComfyServe",
    "SITE_HEADER": "ComfyServe",
    "SITE_SUBHEADER": "Operator's console",
    "SITE_SYMBOL": "auto_awesome_motion",
    "SITE_URL": None,
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": ["comfyserve.console.assets.style"],
    "SCRIPTS": ["comfyserve.console.assets.script"],
    "DASHBOARD_CALLBACK": "health.dashboard.views.callback",
    "SIDEBAR": {"navigation": "comfyserve.console.navigation.sidebar"},
}

# -- the description of the API ---------------------------------------------------------------------
SPECTACULAR_SETTINGS = {
    "TITLE": "ComfyServe",
    "DESCRIPTION": reference_order.DESCRIPTION,
    "TAGS": [{"name": name, "description": about} for name, about in reference_order.TAGS.items()],
    "SORT_OPERATIONS": "comfyserve.api.reference_order.key",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "comfyserve.api.schema.share",
    ],
    # Choices of several serializers that call a field `status`.
    "ENUM_NAME_OVERRIDES": {
        "ExecutionStatusEnum": "workflows.models.Status",
        "ResultPriorityEnum": "workflows.models.Priority",
        "PriorityEnum": "workflows.api.serializers.PRIORITIES",
        "BatchStatusEnum": "workflows.api.batch_schemas.BATCH_STATUSES",
        "ConditionEnum": "health.serializers.CONDITIONS",
    },
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "defaultModelsExpandDepth": 0},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}
