"""Examples for the OpenAPI schema. A test validates them."""

from __future__ import annotations

ACCOUNT = {"email": "user@example.com", "password": "securepassword123", "username": "johndoe"}
USER = {
    "id": 1,
    "email": "user@example.com",
    "username": "johndoe",
    "is_active": True,
    "created_at": "2024-01-01T00:00:00Z",
    "updated_at": None,
}
LOGIN = {"email": "user@example.com", "password": "securepassword123"}
PAIR = {
    "access_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
    "refresh_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
    "token_type": "bearer",
    "expires_in": 1800,
}
REFRESH = {"refresh_token": "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9..."}
LOGGED_OUT = {"message": "Successfully logged out"}
NEW_KEY = {"name": "render server", "expires_at": None}
MADE_KEY = {
    "id": 7,
    "name": "render server",
    "prefix": "csk_3fT9-aQm",
    "scope": "all",
    "created_at": "2024-01-01T00:00:00Z",
    "expires_at": None,
    "last_used_at": None,
    "key": "csk_3fT9-aQm2v8KpXw41yRb7uZc0nJdE5sHgL6oVtIqWxY",
}
