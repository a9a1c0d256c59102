"""The initiator port: sessions, discovery, several portals of one device."""
