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

	"github.com/podnet/podnet/cmd/podnet-proxy/internal/proxyconfig"
)

// version is set by the build: -ldflags "-X main.version=...".
var version = "unknown"

// Exit statuses.
const (
	exitOK    = 0
	exitFault = 1 // could not start, or not clean up
	exitUsage = 2 // the command line or the configuration file
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string, stdout, stderr *os.File) int {
	c, err := proxyconfig.Parse(args, os.Hostname)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "podnet-proxy: %v\nSee podnet-proxy --help.\n", err)
		return exitUsage
	case c.Version:
		fmt.Fprintf(stdout, "podnet-proxy %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return exitOK
	}
	p := newProxy(c, stderr)
	work := p.serve
	switch {
	case c.WriteConfigTo != "":
		work = p.writeConfig
	case c.Cleanup || c.CleanupKubeProxy:
		work = p.cleanup
	case c.InitOnly:
		work = p.initOnly
	}
	if err := work(ctx); err != nil {
		fmt.Fprintf(stderr, "podnet-proxy: %v\n", err)
		return exitFault
	}
	return exitOK
}

// writeConfig writes the configuration with all defaults.
func (p *proxy) writeConfig(context.Context) error {
	text, err := proxyconfig.Write(p.config.KubeProxy)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.config.WriteConfigTo, text, 0o644); err != nil {
		return fmt.Errorf("--write-config-to: %w", err)
	}
	p.log.Info("configuration written", "file", p.config.WriteConfigTo)
	return nil
}
