"""The target port: portals, access, logical units, and the commands they serve."""
