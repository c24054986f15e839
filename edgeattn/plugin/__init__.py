"""The Python side of `plugins/`: build, find, check and call the native libraries."""
