"""What servers of Yjs documents keep on disk, for `ds_sync.sources`."""
