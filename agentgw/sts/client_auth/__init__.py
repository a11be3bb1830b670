"""The ways a client may prove itself that need more than comparing a secret."""
