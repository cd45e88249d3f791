#!/bin/sh
# About four minutes on a card, most valuable first; each step alone, bounded, and its output kept.
#
#     sh benchmarks/gpu/last_run.sh CARRIED PLANS OUT [STEP ...]
#
# CARRIED holds the provider's bundle and wheels (prepare.py), PLANS the CASE.BUDGET.plan.json files of compile_plans.py.
set -u
carried=$1 plans=$2 out=$3
shift 3
site=/tmp/planc-site
here=$(dirname "$0")
python3 "$here/prepare.py" "$carried" "$site" || exit 1
export PYTHONPATH="$site:$here/../../tests" PYTHONUNBUFFERED=1
step() {  # NAME SECONDS COMMAND...
    name=$1 limit=$2
    shift 2
    case " $wanted " in *" $name "*) ;; *) return ;; esac
    [ -e "$out/$name.done" ] && return
    echo "== $name"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -n 12
    touch "$out/$name.done"
}
wanted=${*:-bits r50 gpt2 repeat forms}
step bits 40 python3 "$here/run_plans.py" --out "$out" "$plans" r18-small gpt-small
step r50 60 python3 "$here/run_plans.py" --out "$out" "$plans" r50-32
step gpt2 70 python3 "$here/run_plans.py" --out "$out" "$plans" gpt2
step repeat 40 python3 "$here/reproducibility.py" resnet18 gpt2 bert_base
step forms 50 python3 "$here/profile_networks.py" --forms --out "$out" r50-32
rm -f "$out"/*.done
