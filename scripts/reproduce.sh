#!/usr/bin/env bash
# The figures in README.md, made again: one section each. About three hours on two cores; name sections to run only those.
#   scripts/reproduce.sh [two-step] [spread] [foraging] [lbf] [lazy] [cures] [teams] [credit] [study] [speed] [coma] [critic] [shapes] [workers]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PWD/.venv/bin:$PATH"
export MARL_RUNS=${MARL_RUNS:-runs/reproduce} OMP_NUM_THREADS=1
sections=("$@")
[ $# -gt 0 ] || sections=(two-step spread foraging lbf lazy cures teams credit study speed coma critic shapes workers)

for section in "${sections[@]}"; do
    echo "== $section"
    case $section in
        two-step) for algo in vdn qmix; do marl train --preset two-step-paper --algo "$algo" --seeds 0-4 --jobs 2 --out "$MARL_RUNS/two-step-$algo"; done ;;
        spread)
            for algo in vdn qmix; do python scripts/bench_peers.py --time-to-return "spread-$algo" --algos "$algo"; done
            marl train mpe/simple_spread --algo qmix --seeds 0-2 --jobs 2 --steps 400k --out "$MARL_RUNS/spread"
            ;;
        foraging)
            for algo in vdn qmix; do
                marl train native/foraging-8x8-2p-3f --preset "foraging-$algo" --seeds 0-4 --final-episodes 1000 --out "$MARL_RUNS/foraging-$algo"
                for seed in 0 1 2 3 4; do marl eval "$MARL_RUNS/foraging-$algo/seed-$seed" --episodes 1000 --on lbf/8x8-2p-3f; done
            done
            ;;
        lbf) marl train lbf/8x8-2p-3f --seeds 0-1 --jobs 2 --steps 500k --out "$MARL_RUNS/lbf" ;;
        lazy) marl bench lazy ;;
        cures) python scripts/compare_cures.py ;;
        teams) python scripts/lazy_study.py --seeds 5 --out "$MARL_RUNS/teams.jsonl" --runs "$MARL_RUNS/teams" ;;
        credit) marl bench credit --check && python scripts/bench_sampling.py ;;
        study) python scripts/compare_credit.py --out "$MARL_RUNS/study" ;;
        speed) python scripts/bench_training.py ;;
        coma) python scripts/compare_coma.py --out "$MARL_RUNS/coma" ;;
        critic)
            marl train native/spread --algo vdn --critic.kind mlp --seeds 0-2 --jobs 2 --out "$MARL_RUNS/critic-spread"
            marl train native/foraging-8x8-2p-3f --algo vdn --critic.kind mlp --steps 1500k --seeds 0-2 --jobs 2 --out "$MARL_RUNS/critic-foraging"
            marl train native/two-step --algo qmix --critic.kind mlp --out "$MARL_RUNS/critic-two-step"
            python scripts/critic_credit.py "$MARL_RUNS"/critic-{spread,foraging}/seed-* "$MARL_RUNS/critic-two-step" --reference random
            ;;
        shapes) python scripts/every_shape.py --out "$MARL_RUNS/shapes" ;;
        workers) python -W ignore scripts/bench_workers.py burning:doze burning:burn sisl/pursuit-v5 --turns 3 --seconds 1 ;;
        *) echo "no section $section: two-step, spread, foraging, lbf, lazy, cures, teams, credit, study, speed, coma, critic, shapes, workers" >&2; exit 2 ;;
    esac
done
