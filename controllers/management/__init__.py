"""The managed service: target health, attributes, auto scaling and endpoint connections, behind a small HTTP API."""
