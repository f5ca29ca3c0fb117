package main

import (
	"context"
	"os"
	"runtime/debug"
)

func main() {
	debug.SetGCPercent(-1) // one call needs a few megabytes: collecting them costs more than they do
	p := plugin{machine: realMachine()}
	edge := process{getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(edge.run(context.Background(), p.verbs()))
}
