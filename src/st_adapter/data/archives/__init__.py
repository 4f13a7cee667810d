"""Videos in tar archives (WebDataset shards), on disk or in object storage."""
