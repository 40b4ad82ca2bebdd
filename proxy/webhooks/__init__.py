"""Webhooks: what operators are told of limits, keys and a sink that is late. Never on the request path."""
