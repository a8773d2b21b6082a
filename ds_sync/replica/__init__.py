"""Local first: a SQLite file with every edit in it, and the sessions that bring it to a server and back."""
