#!/bin/sh
# Runs this version with its own Node, however it is called: by the link that says which version is in use, too.
program=$(readlink -f "$0") || exit 1
tree=${program%/bin/*}
exec "$tree/bin/node" "$tree/dist/bin/@FILE@.js" "$@"
