"""The tables of the record, from the first version to this one. Run by `store.migrate`."""
