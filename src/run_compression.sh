#!/usr/bin/env bash
# The compression experiment (paper, section 4.4 and Fig. 7): HAT learns each of the eight sets alone, from embeddings
# U(0, 2). The seeds are those whose first task is facescrub, notmnist, fashion-mnist, traffic-signs, cifar10, mnist,
# cifar100 and svhn.
#
#   src/run_compression.sh DEVICE C SMAX OUT [more arguments of run_multi.py] [-- more of run.py]
#   src/run_compression.sh cuda:0 1.5 400 res/compression_c1.5
#
# OUT is the folder for the results; it is made if it is not there.
set -euo pipefail
if [ $# -lt 4 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
device=$1 c=$2 smax=$3 out=$4
shift 4
ours=() # of run_multi.py
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    ours+=("$1")
    shift
done
mkdir -p "$out"
exec "${PYTHON:-python}" "$(dirname "$0")/run_multi.py" --experiments mixture --approaches hat \
    --seeds 0,1,2,3,6,10,13,25 --parameter "c=$c,smax=$smax,init=uniform" --devices "$device" --res "$out" \
    ${ours[@]+"${ours[@]}"} -- --ntasks 1 "${@:2}"
