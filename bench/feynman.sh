#!/usr/bin/env bash
# The first 25 equations of the Feynman database, one thread each: bench/feynman.sh [OPTC] [SEED]
#
# Prints a table: the equation, seconds of processor time (so that other load on the machine does not count), formulas that were evaluated, whether the formula is the law, and the formula. It is the
# law if on 1000 new points of the same ranges no value is further from the law's than 1e-10 of the law's largest. ONLY="i_6_2a i_8_14" runs some, LIMIT (300) is the processor time in seconds beyond
# which an equation counts as not recovered.
set -euo pipefail
cd "$(dirname "$0")/.."
optc=$(realpath "${1:-target/release/optc}")
seed=${2:-0}
spec=bench/specs/feynman.opt
folder=bench/specs/out/feynman
rm -rf "$folder"
mkdir -p "$folder"
# With another seed the searches draw otherwise; the data are the same.
run=$folder/spec.opt
sed -E "s#^(search .*); budget#\1; seed $seed; budget#; s#out/feynman/##g" "$spec" > "$run"
echo "| equation | s | evaluated | recovered | formula |"
echo "|---|---|---|---|---|"
recovered=0 count=0
for name in ${ONLY:-$(sed -nE 's/^search ([a-z0-9_]+)\(.*/\1/p' "$spec")}; do
  count=$((count + 1))
  TIMEFORMAT='%U %S'
  # A run that takes too long is stopped, as Ctrl-C does it; the wall clock allows for other load.
  { time timeout -s INT "${WALL:-1500}" "$optc" search "$run" "$name" -q > "$folder/$name.txt"; } 2> "$folder/$name.time" || true
  seconds=$(tail -n 1 "$folder/$name.time" | awk '{ printf "%.1f", $1 + $2 }')
  evaluated=$(sed -nE 's/.*, ([0-9]+) evaluated on.*/\1/p' "$folder/$name.txt")
  formula=$(sed -nE "s/^$name\(.*\) = (.*)/\1/p" "$folder/$name.txt" | tail -n 1)
  arguments=$(sed -nE "s/^search $name\((.*)\) \{.*/\1/p" "$spec")
  {
    echo "import \"spec.opt\""
    echo "import \"$name.opt\" as found"
    echo "experiment new_points {"
    # The ranges are those of the data block.
    sed -nE "/^data rows_$name \{/,/^\}/p" "$spec" | sed -nE 's/random\.uniform\(\[500/random.uniform([1000/; /^  let draws|^  [A-Za-z0-9_]+ = .*draws\[/p' | sed -E 's/^  ([A-Za-z0-9_]+) = /  let \1 = /'
    echo "  let law = law_$name($arguments)"
    echo "  check max(abs(found.$name($arguments) - law)) < 1e-10 * max(abs(law)), \"the formula is the law\""
    echo "}"
  } > "$folder/check.opt"
  verdict=no
  if [ -f "$folder/$name.opt" ] && "$optc" test "$folder/check.opt" > "$folder/$name.check" 2>&1; then
    awk "BEGIN { exit !($seconds <= ${LIMIT:-300}) }" && verdict=yes && recovered=$((recovered + 1))
  fi
  echo "| $name | $seconds | $evaluated | $verdict | \`$formula\` |"
done
echo
echo "$recovered of $count recovered"
