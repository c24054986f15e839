"""What a comparison is made of: its sides, their accuracy, ratios, modules, and the gates."""
