# Sourced by the launchers: Node, recent enough to run everything else.
if ! command -v node >/dev/null 2>&1; then
  echo "Node is not on the PATH. Muster needs Node 20.11 or newer: https://nodejs.org/en/download" >&2
  exit 1
fi
node_version="$(node -p process.versions.node)"
node_major="${node_version%%.*}"
node_rest="${node_version#*.}"
node_minor="${node_rest%%.*}"
if [ "$node_major" -lt 20 ] || { [ "$node_major" -eq 20 ] && [ "$node_minor" -lt 11 ]; }; then
  echo "Node $node_version is too old. Muster needs Node 20.11 or newer: https://nodejs.org/en/download" >&2
  exit 1
fi
