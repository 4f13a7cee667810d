"""Videos inside archives: WebDataset's shards, on a disk or in object storage."""
