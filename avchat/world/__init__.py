"""A procedural audio-visual world: scenes, questions about them, and their rendering."""
