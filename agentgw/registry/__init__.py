"""Runtime state that outlives a process: SQLite by default. The log is the truth; this is what it needs."""
