"""From the files of a run's folder to files of a run's folder: the stages of a build and the studies of a finished run.

`run` says what a run's folder contains, `stage` skips and resumes, `build` and `study` string the science together. May
import everything but `cli` and `commands`.
"""
