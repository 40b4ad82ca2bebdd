"""Tenants, their keys and limits that are declared in the settings' file: read, compared with the store, kept to it."""
