"""From token shards to the batch of a step."""
