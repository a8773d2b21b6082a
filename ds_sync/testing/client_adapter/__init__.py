"""The client, as the official client suite drives it: `python -m ds_sync.testing.client_adapter`.

One JSON object a line on standard input is a command, one line on standard output its answer, in the same order. Nothing else goes to
standard output.
"""
