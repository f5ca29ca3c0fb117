package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "unknown"

// Exit statuses.
const (
	exitOK    = 0
	exitFault = 1 // could not start, or not clean up
	exitUsage = 2 // the command line, the environment or the network configuration
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
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
