"""The key service: releases keys to whom the chain entitles, and to nobody else."""
