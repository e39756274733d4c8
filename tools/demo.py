"""Generate, train, evaluate, draw: what `make demo` runs; see --help."""

from mmtrtvit.apis.demo import main

if __name__ == '__main__':
    main()
