package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/flannelflags"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "unknown"

// flanneld is the name under which, or the first argument with which, the agent takes flanneld's command line.
const flanneld = "flanneld"

// Exit statuses.
const (
	exitOK    = 0
	exitFault = 1 // could not start, or not clean up
	exitUsage = 2 // the command line, the environment or the network configuration
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == flanneld {
		args = append([]string{flanneld}, args...)
	}
	status := run(ctx, args, os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr *os.File) int {
	if len(args) > 0 && args[0] == "install" {
		return runInstall(ctx, args[1:], stdout, stderr)
	}
	if len(args) > 0 && args[0] == "migrate" {
		return runMigrate(ctx, args[1:], getenv, stdout, stderr)
	}
	if len(args) > 0 && args[0] == flanneld {
		translated, err := flannelflags.Translate(args[1:], getenv, envName)
		switch {
		case err != nil:
			fmt.Fprintf(stderr, "flanneld (podnet-agent): %v\n", err)
			return exitUsage
		case translated.Help != "":
			fmt.Fprint(stdout, translated.Help)
			return exitOK
		}
		for _, w := range translated.Warnings {
			fmt.Fprintf(stderr, "flanneld (podnet-agent): warning: %s\n", w)
		}
		args = translated.Args
	}
	o, err := parseFlags(args, getenv)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "podnet-agent: %v\nSee podnet-agent --help.\n", err)
		return exitUsage
	case o.version:
		fmt.Fprintf(stdout, "podnet-agent %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	}
	work := serve
	if o.cleanup {
		work = cleanup
	}
	if err := work(ctx, o, stderr); err != nil {
		fmt.Fprintf(stderr, "podnet-agent: %v\n", err)
		return exitFault
	}
	return exitOK
}
