"""Where the time of a query goes: layer by layer, module by module, against the hardware."""
