"""Customizations on disk: parts, manifest, verified reading, export."""
