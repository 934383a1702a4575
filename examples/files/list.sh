#!/bin/sh
# list.sh DIRECTORY: the checksum of every file in it, in one order everywhere.
cd "$1" && find . -type f -exec sha256sum {} + | LC_ALL=C sort -k 2
