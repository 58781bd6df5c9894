"""What a generator is trained on: clean pixels, gaps to hide parts of them, and the tiles made of both."""
