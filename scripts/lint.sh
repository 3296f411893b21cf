#!/bin/bash
# Style, types, and which room may import which.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy --no-error-summary
.venv/bin/lint-imports --no-cache >/tmp/lint-imports.$$ || { cat /tmp/lint-imports.$$; rm -f /tmp/lint-imports.$$; exit 1; }
rm -f /tmp/lint-imports.$$
shellcheck scripts/*.sh .ci/run
echo "lint: ruff, mypy, import-linter, shellcheck found nothing"
