"""Speed, measured: whole models and single blocks, interleaved, with their conditions, in one format."""
