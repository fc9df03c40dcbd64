"""The front door, `/`: what this is and where things are, a page for people and JSON for scripts."""
