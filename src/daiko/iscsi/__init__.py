"""RFC 7143, both roles: PDUs, framing, negotiation, numbering, data transfer. Pure."""
