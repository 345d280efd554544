"""Released objectives through our parts: the files, and which of our methods each is."""
