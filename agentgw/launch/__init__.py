"""What starts a stdio tool server that is shut in by Landlock, or that runs as another user.

A program of its own (`python -I -m agentgw.launch`), since what it gives up can never be had back: it runs in
the server's process, before the server, and then becomes the server. Standard library only.
"""
