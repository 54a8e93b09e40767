#!/bin/sh
# Runs one command line at a time for the supervisor, over a serial port.
#
# Request:  "<id> <command line>\n". Answer: "+<id> begin\n", the output, then "+<id> end <exit status>\n".
# The identifier makes an answer recognisable that belongs to a request made before a snapshot or a failure.
port=$1
stty -F "$port" raw -echo 115200 2>/dev/null || stty raw -echo <"$port"
exec 3<>"$port"
printf '+0 ready\n' >&3
while read -r id command <&3; do
  [ -n "$command" ] || continue
  printf '+%s begin\n' "$id" >&3
  sh -c "$command" </dev/null >&3 2>&1 3<&-
  status=$?
  printf '\n+%s end %d\n' "$id" $status >&3
done
