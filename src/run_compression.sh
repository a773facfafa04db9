#!/usr/bin/env bash
# The compression experiment (paper, section 4.4 and Fig. 7): HAT learns each of the eight sets alone, with embeddings
# from U(0, 2) and hard masks at the end; SGD learns them with all weights; then prune.py cuts HAT's networks down to the
# weights in use. The first tasks of the seeds are facescrub, notmnist, fashion-mnist, traffic-signs, cifar10, mnist,
# cifar100 and svhn.
#
#   src/run_compression.sh DEVICE C SMAX OUT [more arguments of run_multi.py] [-- more of run.py]
#   src/run_compression.sh cuda:0 1.5 400 res/compression_c1.5
#
# OUT is the folder of the results, made if it does not exist; tables and figures go to OUT/figures.
set -euo pipefail
if [[ " $* " = *' -h '* || " $* " = *' --help '* ]]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit
fi
if [[ $# -lt 4 || " $1 $2 $3 $4" = *' --'* ]]; then
    echo 'run_compression.sh: error: expected DEVICE C SMAX OUT, in this order (--help lists all arguments)' >&2
    exit 2
fi
device=$1 c=$2 smax=$3 out=$4
shift 4
for word in "$@"; do
    case $word in
        --experiments* | --approaches* | --seeds* | --nruns* | --parameter* | --devices* | --res* | --tasks* | --ntasks*)
            echo "run_compression.sh: error: ${word%%=*} is set by this script: leave it out" >&2
            exit 2
            ;;
    esac
done
options=() # of run_multi.py
dry=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    [ "$1" = --dry-run ] && dry=1
    options+=("$1")
    shift
done
python=${PYTHON:-python} src=$(dirname "$0") seeds=0,1,2,3,6,10,13,25
batch() {
    "$python" "$src/run_multi.py" --experiments mixture --seeds $seeds --devices "$device" --res "$out" \
        ${options[@]+"${options[@]}"} "$@"
}
batch --approaches hat --parameter "c=$c,smax=$smax,hard=1,init=uniform" -- --ntasks 1 --save "${@:2}"
batch --approaches sgd -- --ntasks 1 "${@:2}"
[ "$dry" ] && exit
echo
code=0
"$python" "$src/prune.py" "$out"/mixture_hat_{0,1,2,3,6,10,13,25}.json > "$out/prune.log" || code=$?
[ $code -gt 2 ] && exit $code # interrupted; below: a network that cannot be pruned
"$python" "$src/plot_results.py" --experiment mixture --approaches hat,sgd --seeds $seeds --res "$out" --output "$out/figures"
exit $code
