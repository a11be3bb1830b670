"""The security token service: keys, signing, client authentication. Its rules live in core."""
