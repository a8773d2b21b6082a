"""Yjs documents by pycrdt: the default adapter."""

from ds_sync_yjs.adapter import YjsAdapter

__all__ = ["YjsAdapter"]
