package proxyconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/podnet/podnet/internal/check"
)

// Parse reads the command line and the file that it names. It returns pflag.ErrHelp if asked for help, which has been printed then.
func Parse(args []string, hostname func() (string, error)) (Config, error) {
	var f Flags
	set := NewFlags(&f)
	if err := set.Parse(args); err != nil {
		return Config{}, err
	}
	if set.NArg() > 0 {
		return Config{}, fmt.Errorf("argument %q: want flags only", set.Arg(0))
	}
	c := &checker{flags: &f, hostname: hostname, out: Config{Version: f.version, Cleanup: f.cleanup, CleanupKubeProxy: f.cleanupKubeProxy, InitOnly: f.initOnly, WriteConfigTo: f.writeConfigTo, ReplaceKubeProxy: f.replaceKubeProxy, SysctlDir: f.sysctlDir}}
	if f.version {
		return c.out, nil
	}
	c.kube = f.kube
	if f.configFile == "" {
		if err := f.finish(set); err != nil {
			return Config{}, err
		}
		c.kube = f.kube
		c.localhost = set.Changed("iptables-localhost-nodeports") && *f.kube.IPTables.LocalhostNodePorts
		c.kube.Logging.Format, c.kube.Logging.FlushFrequency.Duration.Duration = f.logFormat, f.logFlush
	} else {
		if c.kube, c.faults = readFile(f.configFile); len(c.faults) > 0 {
			return Config{}, errors.Join(c.faults...)
		}
		if l := c.kube.IPTables.LocalhostNodePorts; l != nil && *l {
			c.localhost = true
		}
		setDefaults(&c.kube)
		if set.Changed("logging-format") {
			c.kube.Logging.Format = f.logFormat
		}
	}
	c.check()
	c.out.KubeProxy = c.kube
	c.out.Warnings = append(overruled(set, f.configFile), c.out.Warnings...)
	return c.out, errors.Join(c.faults...)
}

// overruled warns of flags that do not count because there is a file.
func overruled(set *pflag.FlagSet, file string) (warnings []string) {
	if file == "" {
		return nil
	}
	set.Visit(func(f *pflag.Flag) {
		if !own[f.Name] {
			warnings = append(warnings, fmt.Sprintf("--%s is not used: --config %q counts, as with kube-proxy", f.Name, file))
		}
	})
	return warnings
}

// checker makes a Config of a KubeProxyConfiguration and collects what is wrong.
type checker struct {
	flags     *Flags
	hostname  func() (string, error)
	kube      v1alpha1.KubeProxyConfiguration
	localhost bool // localhostNodePorts was asked for
	out       Config
	faults    []error
}

// name is what the user wrote: the file and its field, or the flag.
func (c *checker) name(field string) string {
	if c.flags.configFile != "" {
		return fmt.Sprintf("--config %q: %s", c.flags.configFile, field)
	}
	if flag, ok := flagOf[field]; ok {
		return "--" + flag
	}
	return field
}

func (c *checker) fault(field string, value any, want string) {
	c.faults = append(c.faults, fmt.Errorf("%s %q: %s", c.name(field), fmt.Sprint(value), want))
}

func (c *checker) flagFault(flag, value, want string) {
	c.faults = append(c.faults, fmt.Errorf("--%s %q: %s", flag, value, want))
}

func (c *checker) warn(format string, args ...any) {
	c.out.Warnings = append(c.out.Warnings, fmt.Sprintf(format, args...))
}

func (c *checker) check() {
	k := &c.kube
	c.out.Warnings = notes(k, c.name)
	if c.localhost && c.section() == IPTables {
		c.warn("%s is not used: NodePorts are never served on 127.0.0.1, which would need route_localnet (CVE-2020-8558)", c.name("iptables.localhostNodePorts"))
	}
	c.mode()
	c.node()
	c.kubernetes()
	c.servers()
	c.masquerade()
	c.local()
	c.nodePorts()
	c.periods()
	c.ipvs()
	c.conntrack()
	c.logging()
	if !between(int(*k.OOMScoreAdj), -1000, 1000) {
		c.fault("oomScoreAdj", *k.OOMScoreAdj, "want -1000 to 1000")
	}
	c.out.OOMScoreAdj = int(*k.OOMScoreAdj)
	if c.flags.hold < 0 || c.flags.hold > 24*time.Hour {
		c.flagFault("mass-delete-hold", c.flags.hold.String(), "want 0s (off) to 24h")
	}
	c.out.Hold = c.flags.hold
	if !filepath.IsAbs(c.flags.sysctlDir) {
		c.flagFault("sysctl-dir", c.flags.sysctlDir, "want an absolute path")
	}
	for _, s := range c.flags.externalCIDRs {
		p, err := parsePrefix(s)
		if err != nil {
			c.flagFault("external-ip-cidrs", s, err.Error())
		}
		c.out.ExternalCIDRs = append(c.out.ExternalCIDRs, p)
	}
}

var modes = []string{Auto, NFTables, IPVS, IPTables}

func (c *checker) mode() {
	file := string(c.kube.Mode)
	c.out.FileMode, c.out.Mode = file, Auto
	const want = "want nftables, ipvs, iptables, or nothing for auto"
	switch {
	case file == "" || file == Auto && c.flags.configFile == "":
	case slices.Contains(modes[1:], file):
		c.out.Mode = file
	case file == "userspace" || file == "kernelspace":
		c.fault("mode", file, "is no mode of Linux today: "+want)
	default:
		c.fault("mode", file, want)
	}
	if m := c.flags.mode; slices.Contains(modes, m) {
		c.out.Mode = m
	} else if m != "" {
		c.flagFault("mode", m, "want auto, nftables, ipvs or iptables")
	}
}

func (c *checker) node() {
	field, name := "hostnameOverride", c.kube.HostnameOverride
	if c.flags.hostname != "" {
		name = c.flags.hostname
	}
	if name == "" && c.hostname != nil {
		host, err := c.hostname()
		if err != nil {
			c.faults = append(c.faults, fmt.Errorf("the host's name: %w: set --hostname-override", err))
			return
		}
		name = host
	}
	c.out.NodeName = strings.ToLower(strings.TrimSpace(name))
	if err := checkName(c.out.NodeName); err != nil {
		if c.flags.hostname != "" {
			c.flagFault("hostname-override", name, err.Error())
		} else {
			c.fault(field, name, err.Error())
		}
	}
}

// checkName checks a Node's name: a DNS subdomain (RFC 1123), as Kubernetes demands.
func checkName(s string) error {
	ok := func(r byte) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }
	if s == "" || len(s) > 253 || !ok(s[0]) || !ok(s[len(s)-1]) || strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f || !ok(byte(r)) && r != '-' && r != '.' }) {
		return errors.New("want 1 to 253 letters, digits, '-' and '.', with a letter or digit at both ends")
	}
	return nil
}

func (c *checker) kubernetes() {
	k := c.kube.ClientConnection
	c.out.Kubernetes = Kubernetes{Kubeconfig: k.Kubeconfig, Master: c.flags.master, QPS: k.QPS, Burst: int(k.Burst)}
	c.out.Services = c.flags.services
	if k.Burst < 0 {
		c.fault("clientConnection.burst", k.Burst, "want 0 (the default) or more")
	}
	if m := c.flags.master; m != "" {
		if u, err := url.Parse(m); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			c.flagFault("master", m, "want a URL such as https://192.168.1.10:6443")
		}
	}
	if c.flags.services == "" {
		return
	}
	if _, err := os.Stat(c.flags.services); err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		c.flagFault("services", c.flags.services, err.Error()+": want a file or directory of Services and EndpointSlices")
	}
	if c.flags.master != "" {
		c.flagFault("master", c.flags.master, fmt.Sprintf("contradicts --services %q: want Services from files or from Kubernetes, not both", c.flags.services))
	}
}

func (c *checker) servers() {
	k := &c.kube
	if a, err := parseAddr(k.BindAddress); err != nil {
		c.fault("bindAddress", k.BindAddress, "want an IP address")
	} else if !a.IsUnspecified() {
		c.out.BindAddress = a
	}
	for _, s := range []struct {
		field, value string
		to           *netip.AddrPort
	}{{"healthzBindAddress", k.HealthzBindAddress, &c.out.Healthz}, {"metricsBindAddress", k.MetricsBindAddress, &c.out.Metrics}} {
		a, err := parseListen(s.value)
		if err != nil {
			c.fault(s.field, s.value, err.Error())
		}
		*s.to = a
	}
	if c.out.Healthz.IsValid() && c.out.Healthz == c.out.Metrics {
		c.fault("metricsBindAddress", k.MetricsBindAddress, "is healthzBindAddress too: want another port")
	}
	c.out.BindHardFail, c.out.Profiling = k.BindAddressHardFail, k.EnableProfiling
}

func (c *checker) logging() {
	c.out.Verbosity = max(c.flags.verbosity, int(c.kube.Logging.Verbosity))
	switch c.kube.Logging.Format {
	case "text":
	case "json":
		c.out.LogJSON = true
	default:
		c.fault("logging.format", c.kube.Logging.Format, "want text or json")
	}
}

func between(n, low, high int) bool { return n >= low && n <= high }

// device checks the name of a bridge, or its beginning.
func (c *checker) device(field, name string) {
	if err := check.Device(name); err != nil {
		c.fault(field, name, strings.TrimPrefix(err.Error(), strconv.Quote(name)+": "))
	}
}
