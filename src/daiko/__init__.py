"""Daiko: a storage-virtualization controller for iSCSI networks."""
