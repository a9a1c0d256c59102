"""One connection structure for both kinds of port: bytes between a transport and iscsi/."""
