"""Sweeps: many engines from one file, a row of figures for each.

`spec` reads the file, `cases` multiplies it out, `results` keeps the rows, `prepare` makes the
graphs, `measure` builds and times one engine, `process` gives either a process of its own, `run`
drives all of it here and `remote` on boards, `pareto` tells which rows no other one beats.
"""
