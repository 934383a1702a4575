#!/bin/sh
echo "$#:$1:$2 in $(pwd) umask $(umask)"; echo err >&2
test "$1" != fail
