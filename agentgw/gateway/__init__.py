"""The story of one call. `call` is what a reviewer reads aloud; its neighbours are what it leans on."""
