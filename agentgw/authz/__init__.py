"""The gateway as authorization server towards people and their clients: login, consent, codes."""
