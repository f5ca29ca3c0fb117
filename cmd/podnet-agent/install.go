package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/install"
)

// installOptions are the command line of podnet-agent install.
type installOptions struct {
	files     install.Files
	uninstall bool
	stay      bool
}

func newInstallFlags(o *installOptions) *pflag.FlagSet {
	f := pflag.NewFlagSet("podnet-agent install", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.files.Plugin, "plugin", "", "`path` of the plugin to install; default: "+install.PluginName+" beside this program")
	f.StringVar(&o.files.BinDir, "bin-dir", "/opt/cni/bin", "`directory` where the container runtime looks for plugins")
	f.StringVar(&o.files.Conflist, "conflist", "", "`path` of a CNI configuration list to install too, last; default: none, the agent writes one")
	f.StringVar(&o.files.ConfDir, "conf-dir", "/etc/cni/net.d", "`directory` where the container runtime looks for configuration lists")
	f.BoolVar(&o.uninstall, "uninstall", false, "remove what install wrote; refused while a configuration list calls the plugin")
	f.BoolVar(&o.stay, "stay", false, "stay until SIGTERM when done, for a DaemonSet")
	return f
}

// runInstall is podnet-agent install.
func runInstall(ctx context.Context, args []string, stdout, stderr *os.File) int {
	var o installOptions
	f := newInstallFlags(&o)
	err := f.Parse(args)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err == nil:
		err = o.check(f)
	}
	if err != nil {
		fmt.Fprintf(stderr, "podnet-agent install: %v\nSee podnet-agent install --help.\n", err)
		return exitUsage
	}
	work, did := install.Install, "installed"
	if o.uninstall {
		work, did = install.Uninstall, "removed"
	}
	paths, err := work(ctx, o.files)
	for _, p := range paths {
		fmt.Fprintf(stdout, "%s %s\n", did, p)
	}
	if err != nil {
		fmt.Fprintf(stderr, "podnet-agent install: %v\n", err)
		return exitFault
	}
	if len(paths) == 0 {
		fmt.Fprintln(stdout, "nothing to do")
	}
	if o.stay {
		<-ctx.Done()
	}
	return exitOK
}

// check returns every fault, and fills in the plugin's path.
func (o *installOptions) check(f *pflag.FlagSet) error {
	var faults []error
	if f.NArg() > 0 {
		faults = append(faults, fmt.Errorf("argument %q: want flags only", f.Arg(0)))
	}
	for _, d := range []struct{ flag, path string }{{"bin-dir", o.files.BinDir}, {"conf-dir", o.files.ConfDir}} {
		if !filepath.IsAbs(d.path) {
			faults = append(faults, fmt.Errorf("--%s %q: want an absolute path", d.flag, d.path))
		}
	}
	if o.files.Plugin == "" {
		self, err := os.Executable()
		if err != nil {
			faults = append(faults, fmt.Errorf("--plugin: want a path: %w", err))
		}
		o.files.Plugin = filepath.Join(filepath.Dir(self), install.PluginName)
	}
	return errors.Join(faults...)
}
