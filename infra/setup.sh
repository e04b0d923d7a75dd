#!/usr/bin/env bash
# Build or update .venv; skipped when the requirement files have not changed since it was last finished.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
requirements=infra/requirements
torch=$requirements/torch-cpu.txt
torchrec=$requirements/torchrec.txt
if [ -n "${CUDA:-}" ]; then
    torch=$requirements/cuda/torch.txt
    torchrec=$requirements/cuda/torchrec.txt
fi

stamp=$venv/.setup-done
wanted=$( { pwd; cat "$torch" "$torchrec" $requirements/*.txt pyproject.toml infra/setup.sh; } | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi
rm -f "$stamp"

fail() {
    echo "pagewise setup: $1" >&2
    exit 1
}

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=${PYTHON:-python3.11}
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || fail \
        "expected Python 3.11 as '$python' and did not find it. Install it (for example: apt install python3.11-venv, \
brew install python@3.11, pyenv install 3.11), or name it: make setup PYTHON=/path/to/python3.11"
    echo "pagewise setup: creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" || fail \
        "'$python -m venv' failed; on Debian and Ubuntu install python3.11-venv, then run make setup again"
fi

# A package whose installation was interrupted has no RECORD: forget it, so that pip installs it anew.
for info in "$venv"/lib/python3.11/site-packages/*.dist-info; do
    if [ -d "$info" ] && [ ! -f "$info/RECORD" ]; then
        rm -rf "$info"
    fi
done

step() {
    local name=$1 log
    shift
    echo "pagewise setup: $name"
    log=$(mktemp)
    if ! "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet "$@" >"$log" 2>&1 </dev/null; then
        cat "$log" >&2
        rm -f "$log"
        fail "'$name' failed (pip's words above); mend it and run make setup again: it goes on where it stopped"
    fi
    rm -f "$log"
}

started=$SECONDS
step "1/4 torch (the largest download)" --only-binary :all: -r "$torch" -c $requirements/constraints.txt
step "2/4 Beam, Ray, MLflow, Redis and the rest, in one resolver call" --only-binary :all: \
    -r $requirements/runtime.txt -r $requirements/dev.txt -r "$torch" -c $requirements/constraints.txt
step "3/4 TorchRec and FBGEMM" --only-binary :all: --no-deps -r "$torchrec"
step "4/4 pagewise itself" --no-deps --no-build-isolation --editable .

echo "$wanted" >"$stamp"
echo "pagewise setup: done in $((SECONDS - started)) s; try 'make demo'"
