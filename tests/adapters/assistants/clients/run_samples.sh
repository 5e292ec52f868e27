#!/bin/sh
# Runs the curl samples in the current folder one after the other, as they stand, and prints what
# became of each as JSON: the name of its file, and its exit code or null. An answer that is an
# error makes curl fail; what each printed stays in files beside it.
printf '%s\n' fail-with-body silent show-error > .curlrc
export CURL_HOME="$PWD"
comma='{'
for sample in *.sh; do
  [ "$sample" = "${0##*/}" ] && continue
  outcome=null
  sh -e "$sample" > "$sample.out" 2> "$sample.err" || outcome=$?
  printf '%s"%s": %s' "$comma" "$sample" "$outcome"
  comma=', '
done
echo '}'
