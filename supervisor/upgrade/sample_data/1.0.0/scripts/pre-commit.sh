#!/bin/sh
# Refuses standards that are empty.
for file in universal/standards/*/*.md; do
    test -s "$file" || { echo "$file is empty" >&2; exit 1; }
done
