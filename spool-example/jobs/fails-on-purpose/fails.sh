#!/usr/bin/env bash
# Complains and fails.
echo "cannot reach inventory.example: this is what an error looks like" >&2
exit 3
