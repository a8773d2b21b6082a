"""Yjs documents by pycrdt: the default adapter."""
