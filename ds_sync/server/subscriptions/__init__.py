"""Subscriptions: webhooks and pull-wake (PROTOCOL.md, subscriptions)."""
