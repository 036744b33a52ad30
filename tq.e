/dev/fd/3: line 87: ./tq.sh: No such file or directory
