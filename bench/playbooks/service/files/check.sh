#!/bin/sh
test -s "$1/main.conf" && test -s "$1/version" && echo healthy
