"""One file that holds all that a board needs: graphs, table, plugin, golden tensors, hashes."""
