package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/netconf"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/node"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/takeover"
	"github.com/podnet/podnet/internal/check"
)

// options are the command line, checked.
type options struct {
	nodeName    string
	nodes       string
	kube        kubeOptions
	netConf     string
	uplink      uplinkOptions
	flannel     flannelOptions
	public      publicOptions
	ipMasq      bool
	forward     bool
	subnetFile  string
	cniConfDir  string
	cniConfName string
	cniDataDir  string
	bridge      string
	stateDir    string
	sysctlDir   string
	listen      string
	pprof       bool
	resync      time.Duration
	hold        time.Duration
	linger      time.Duration
	lingerUntil time.Time // of the backend that was in use before the network configuration changed
	logFormat   string
	logLevel    string
	cleanup     bool
	version     bool

	net     netconf.Config    // what netConf says
	network *takeover.Network // what was taken over
}

// defaultListen is a port that neither Kubernetes' own components (10248 to 10259) nor kube-proxy use.
const defaultListen = "127.0.0.1:10270"

// envPrefix begins the environment variable that stands for a flag: PODNET_NODE_NAME for --node-name.
const envPrefix = "PODNET_"

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func newFlags(o *options) *pflag.FlagSet {
	f := pflag.NewFlagSet("podnet-agent", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringVar(&o.nodeName, "node-name", "", "name of this node (required; NODE_NAME in the environment counts too)")
	f.StringVar(&o.nodes, "nodes", "", "`path` of the node descriptions: a file, or a directory of *.yaml, *.yml and *.json; without it: Kubernetes")
	o.kube.flags(f)
	f.StringVar(&o.netConf, "net-conf", "", "`path` of the network configuration, in the format of flannel's net-conf.json (required)")
	o.uplink.flags(f)
	o.flannel.flags(f)
	o.public.flags(f)
	f.BoolVar(&o.ipMasq, "ip-masq", true, "masquerade pod traffic that leaves the cluster")
	f.BoolVar(&o.forward, "forward-rules", true, "accept forwarded pod traffic where the rules are iptables' (its FORWARD chain may drop by default, as with Docker)")
	f.StringVar(&o.subnetFile, "subnet-file", "/run/podnet/subnet.env", "`path` of the subnet file to write")
	f.StringVar(&o.cniConfDir, "cni-conf-dir", "/etc/cni/net.d", "`directory` of the CNI configuration list to write; empty: write none")
	f.StringVar(&o.cniConfName, "cni-conf-name", "10-podnet.conflist", "file `name` of the CNI configuration list")
	f.StringVar(&o.cniDataDir, "cni-data-dir", "", "`directory` of the leases, for the CNI configuration list; empty: the plugin's default")
	f.StringVar(&o.bridge, "bridge", "cni0", "`name` of the pods' bridge, for the CNI configuration list")
	f.StringVar(&o.stateDir, "state-dir", "/var/lib/podnet", "`directory` of the agent's lock and record of written files")
	f.StringVar(&o.sysctlDir, "sysctl-dir", "/proc/sys", "`directory` of the kernel's settings; in a container, whose own cannot be written, where the node's are mounted")
	f.StringVar(&o.listen, "listen", defaultListen, "`address`:port of /healthz, /readyz and /metrics; empty: off")
	f.BoolVar(&o.pprof, "pprof", false, "serve /debug/pprof/ too")
	f.DurationVar(&o.resync, "resync", 9*time.Second, "look at everything at least this often")
	f.DurationVar(&o.hold, "mass-delete-hold", time.Minute, "keep peers for this long when more than half disappear at once; 0: do not")
	f.DurationVar(&o.linger, "backend-linger", 2*time.Minute, "when the backend changes while the agent runs, keep receiving by the old one for this long: other nodes learn of the change later")
	f.StringVar(&o.logFormat, "log-format", "text", "text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.cleanup, "cleanup", false, "remove all that the agent made in this network namespace and its files, and exit; pods and their bridge stay")
	f.BoolVar(&o.version, "version", false, "print the version and exit")
	return f
}

// parseFlags reads the command line, and the environment for what it does not say, and checks every value. It touches nothing.
func parseFlags(args []string, getenv func(string) string) (options, error) {
	var o options
	f := newFlags(&o)
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("argument %q: want flags only", f.Arg(0))
	}
	faults := environment(f, getenv)
	if o.version && len(faults) == 0 {
		return o, nil
	}
	if o.nodeName == "" {
		o.nodeName = getenv("NODE_NAME") // the usual name in a DaemonSet, from the downward API
	}
	if len(faults) == 0 {
		faults = o.check()
	}
	return o, errors.Join(faults...)
}

// environment sets the flags that the command line does not from the environment.
func environment(f *pflag.FlagSet, getenv func(string) string) (faults []error) {
	f.VisitAll(func(flag *pflag.Flag) {
		value := getenv(envName(flag.Name))
		if value == "" || flag.Changed {
			return
		}
		if err := f.Set(flag.Name, value); err != nil {
			faults = append(faults, fmt.Errorf("%s %q: want what --%s takes: %s", envName(flag.Name), value, flag.Name, flag.Usage))
		}
	})
	return faults
}

// check returns every fault with flag, value and what is allowed.
func (o *options) check() []error {
	var faults []error
	fault := func(flag, value, want string) { faults = append(faults, fmt.Errorf("--%s %q: %s", flag, value, want)) }
	if !o.cleanup {
		o.checkInputs(fault)
	}
	o.uplink.check(fault)
	o.flannel.check(fault)
	o.public.check(fault)
	if err := check.Device(o.bridge); err != nil {
		faults = append(faults, fmt.Errorf("--bridge %w", err))
	}
	for _, p := range []struct {
		flag, path string
		optional   bool
	}{{"subnet-file", o.subnetFile, false}, {"cni-conf-dir", o.cniConfDir, true}, {"cni-data-dir", o.cniDataDir, true}, {"state-dir", o.stateDir, false}, {"sysctl-dir", o.sysctlDir, false}} {
		if !(p.optional && p.path == "") && (!filepath.IsAbs(p.path) || strings.ContainsRune(p.path, 0)) {
			fault(p.flag, p.path, "want an absolute path")
		}
	}
	if info, err := os.Stat(o.subnetFile); err == nil && info.IsDir() {
		fault("subnet-file", o.subnetFile, "is a directory: want the path of a file")
	}
	if n := o.cniConfName; filepath.Base(n) != n || filepath.Ext(n) != ".conflist" || n == ".conflist" || strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' }) {
		fault("cni-conf-name", n, "want a file name that ends in .conflist")
	}
	if err := checkListen(o.listen); err != nil {
		fault("listen", o.listen, err.Error())
	}
	if o.resync < 100*time.Millisecond || o.resync > time.Hour {
		fault("resync", o.resync.String(), "want 100ms to 1h")
	}
	if o.hold < 0 || o.hold > 24*time.Hour {
		fault("mass-delete-hold", o.hold.String(), "want 0s (off) to 24h")
	}
	if o.linger < 0 || o.linger > 24*time.Hour {
		fault("backend-linger", o.linger.String(), "want 0s (off) to 24h")
	}
	for _, c := range []struct {
		flag, value string
		allowed     []string
	}{{"log-format", o.logFormat, logFormats}, {"log-level", o.logLevel, logLevels}} {
		if !slices.Contains(c.allowed, c.value) {
			fault(c.flag, c.value, "want "+strings.Join(c.allowed[:len(c.allowed)-1], ", ")+" or "+c.allowed[len(c.allowed)-1])
		}
	}
	return faults
}

// checkInputs checks what only a run needs, not --cleanup.
func (o *options) checkInputs(fault func(flag, value, want string)) {
	if o.nodeName == "" {
		fault("node-name", "", "required: want the name of this node, as Kubernetes or the node descriptions have it")
	} else if err := node.CheckName(o.nodeName); err != nil {
		fault("node-name", o.nodeName, strings.SplitN(err.Error(), ": ", 2)[1])
	}
	o.kube.check(o.nodes, fault)
	if o.nodes == "" {
		// from Kubernetes
	} else if _, err := os.Stat(o.nodes); err != nil {
		fault("nodes", o.nodes, cause(err)+": want a file or directory of node descriptions")
	}
	if o.netConf == "" {
		fault("net-conf", "", "required: want a file such as flannel's net-conf.json")
		return
	}
	var err error
	if o.net, err = netconf.Read(o.netConf); err != nil {
		for _, line := range strings.Split(cause(err), "\n") {
			fault("net-conf", o.netConf, line)
		}
	}
}

// cause returns what an error of a file says without the path, which stands before it already.
func cause(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

func checkListen(listen string) error {
	if listen == "" {
		return nil
	}
	const want = "want address:port such as " + defaultListen + ", :10270 or [::1]:10270, or nothing"
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return errors.New(want)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("port: want 1 to 65535")
	}
	if host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return errors.New(want)
	}
	return nil
}

var (
	logFormats = []string{"text", "json"}
	logLevels  = []string{"debug", "info", "warn", "error"}
)

func (o *options) logger(w *os.File) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(o.logLevel)) // was checked
	h := &slog.HandlerOptions{Level: level}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, h))
	}
	return slog.New(slog.NewTextHandler(w, h))
}
