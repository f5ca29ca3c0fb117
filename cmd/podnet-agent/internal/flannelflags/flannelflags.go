// Package flannelflags reads the command line and the environment of flanneld (v0.28), and says the same in the flags of podnet-agent. So an agent that is started
// in the place of flanneld, by the same manifest, does flanneld's work.
//
// What it does: [Translate]. Every flag of flanneld is known: one that means something to the agent is translated, any other is a warning
// that names it and says why, once. What flanneld does not know either is an error, as it is there.
//
// What it owns, what it touches: nothing. It is pure.
//
// Failure: an error that names every fault. Privileges: none. Concurrency: a function.
package flannelflags

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// EnvPrefix begins the environment variable that stands for a flag: FLANNELD_IP_MASQ for --ip-masq.
const EnvPrefix = "FLANNELD_"

// Result is a command line of podnet-agent.
type Result struct {
	Args     []string
	Warnings []string
	// Help is the text to print instead of running; "" = run.
	Help string
}

// known is a flag of flanneld.
type known struct {
	name, value string // the default
	isBool      bool
	usage       string
	to          func(t *translation, values []string) // nil: means nothing here
	why         string                                // it means nothing here
}

const (
	noEtcd   = "podnet-agent takes nodes and podCIDRs from the Kubernetes API, never from etcd"
	noLeases = "a node's podCIDR is leased by the Node object, for as long as that exists"
	noCharon = "there is no backend ipsec"
	noKlog   = "--v alone chooses how much is logged"
)

func same(to string) func(*translation, []string) {
	return func(t *translation, values []string) {
		for _, v := range values {
			t.args = append(t.args, "--"+to+"="+v)
		}
	}
}

func flags() []known {
	return []known{
		{name: "kube-subnet-mgr", isBool: true, value: "false", usage: "required: nodes come from Kubernetes", to: func(*translation, []string) {}},
		{name: "kube-api-url", usage: "URL of the API server", to: same("api-server")},
		{name: "kube-annotation-prefix", usage: "prefix of the node annotations", to: same("kube-annotation-prefix")},
		{name: "kubeconfig-file", usage: "path of the kubeconfig", to: same("kubeconfig")},
		{name: "net-config-path", value: "/etc/kube-flannel/net-conf.json", usage: "path of the network configuration", to: same("net-conf")},
		{name: "subnet-file", value: "/run/flannel/subnet.env", usage: "path of the subnet file to write", to: same("subnet-file")},
		{name: "iface", usage: "uplink by name or address; may be given several times", to: same("iface")},
		{name: "iface-regex", usage: "uplink by expression; may be given several times", to: same("iface-regex")},
		{name: "iface-can-reach", usage: "uplink by what it reaches", to: same("iface-can-reach")},
		{name: "public-ip", usage: "IPv4 address to publish", to: same("public-ip")},
		{name: "public-ipv6", usage: "IPv6 address to publish", to: same("public-ipv6")},
		{name: "ip-masq", isBool: true, value: "false", usage: "masquerade what leaves the cluster", to: same("ip-masq")},
		{name: "iptables-forward-rules", isBool: true, value: "true", usage: "accept forwarded pod traffic", to: same("forward-rules")},
		{name: "iptables-resync", value: "5", usage: "seconds between looks at the rules, and at all else", to: resync},
		{name: "healthz-ip", value: "0.0.0.0", usage: "address of /healthz", to: func(t *translation, v []string) { t.healthzIP = v[0] }},
		{name: "healthz-port", value: "0", usage: "port of /healthz; 0: the agent's own default", to: healthzPort},
		{name: "set-node-network-unavailable", isBool: true, value: "true", usage: "keep the node condition", to: same("set-node-network-unavailable")},
		{name: "v", value: "0", usage: "log level; 1 and more: debug", to: verbosity},
		{name: "version", isBool: true, value: "false", usage: "print the version and exit", to: same("version")},

		{name: "ip-blackhole-route", isBool: true, value: "false", why: "packets to a pod that does not exist end at the pods' bridge, once there is one"},
		{name: "ip-masq-fully-random-disable", isBool: true, value: "false", why: "source ports are always chosen fully at random, which keeps two connections from choosing the same"},
		{name: "subnet-lease-renew-margin", value: "60", why: noLeases},
		{name: "etcd-endpoints", why: noEtcd}, {name: "etcd-prefix", why: noEtcd}, {name: "etcd-keyfile", why: noEtcd}, {name: "etcd-certfile", why: noEtcd},
		{name: "etcd-cafile", why: noEtcd}, {name: "etcd-username", why: noEtcd}, {name: "etcd-password", why: noEtcd},
		{name: "charon-executable-path", why: noCharon}, {name: "charon-vici-uri", why: noCharon},
		{name: "vmodule", why: noKlog}, {name: "log_backtrace_at", why: noKlog},
		{name: "use-multi-cluster-cidr", isBool: true, value: "false", why: "Kubernetes has removed MultiCIDRRangeAllocator's API that flannel used"},
		{name: "persistent-mac", isBool: true, value: "false", why: "the VTEP's MAC address is always the same after a reboot"},
	}
}

// translation is a command line that is being made.
type translation struct {
	args      []string
	faults    []error
	healthzIP string
}

func (t *translation) fault(name, value, want string) {
	t.faults = append(t.faults, fmt.Errorf("--%s %q: want %s", name, value, want))
}

func resync(t *translation, v []string) {
	n, err := strconv.Atoi(v[0])
	if err != nil || n < 1 || n > 3600 {
		t.fault("iptables-resync", v[0], "1 to 3600 seconds")
		return
	}
	t.args = append(t.args, fmt.Sprintf("--resync=%ds", n))
}

func healthzPort(t *translation, v []string) {
	n, err := strconv.ParseUint(v[0], 10, 16)
	switch {
	case err != nil:
		t.fault("healthz-port", v[0], "0 to 65535")
	case net.ParseIP(t.healthzIP) == nil:
		t.fault("healthz-ip", t.healthzIP, "an address")
	case n > 0:
		t.args = append(t.args, "--listen="+net.JoinHostPort(t.healthzIP, v[0]))
	}
}

func verbosity(t *translation, v []string) {
	n, err := strconv.Atoi(v[0])
	if err != nil {
		t.fault("v", v[0], "a number")
	} else if n > 0 {
		t.args = append(t.args, "--log-level=debug")
	}
}

// collector is the value of a flag, given any number of times.
type collector struct {
	values []string
	isBool bool
}

func (c *collector) String() string   { return strings.Join(c.values, ",") }
func (c *collector) IsBoolFlag() bool { return c.isBool }
func (c *collector) Set(s string) error {
	if c.isBool {
		b, err := strconv.ParseBool(s)
		if err != nil {
			return errors.New("want true or false")
		}
		s = strconv.FormatBool(b)
	}
	c.values = append(c.values, s)
	return nil
}

// fixed are the flags that follow from the role: flanneld hands the node to the plugin flannel, which other containers install, by the subnet file alone; and the
// device keeps flannel's name, so that flanneld may come back. Each yields to the agent's own environment variable.
var fixed = []struct{ flag, value string }{
	{"cni-conf-dir", ""}, {"state-dir", "/run/flannel/podnet"}, {"take-over", "flannel"}, {"vtep-names", "flannel"},
}

// Translate reads args and, for what they do not say, the environment. agentEnv returns the name of the agent's environment variable for a flag of its own.
func Translate(args []string, getenv func(string) string, agentEnv func(flag string) string) (Result, error) {
	all := flags()
	set := flag.NewFlagSet("flanneld", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	given := map[string]*collector{}
	for _, k := range all {
		given[k.name] = &collector{isBool: k.isBool}
		set.Var(given[k.name], k.name, k.usage)
	}
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return Result{Help: help(all)}, nil
	case err != nil:
		return Result{}, fmt.Errorf("%w (flanneld does not know it either)", err)
	case set.NArg() > 0:
		return Result{}, fmt.Errorf("argument %q: want flags only", set.Arg(0))
	}
	var t translation
	var r Result
	for _, k := range all {
		c, source := given[k.name], "--"+k.name
		if env := EnvPrefix + strings.ToUpper(strings.ReplaceAll(k.name, "-", "_")); len(c.values) == 0 && getenv(env) != "" {
			source = env
			if err := c.Set(getenv(env)); err != nil {
				t.faults = append(t.faults, fmt.Errorf("%s %q: %w", env, getenv(env), err))
			}
		}
		values := c.values
		if len(values) == 0 && k.value != "" {
			values = []string{k.value}
		}
		switch {
		case k.to == nil && len(c.values) > 0 && c.values[len(c.values)-1] != "false":
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s: without effect: %s", source, k.why))
		case k.to == nil || len(values) == 0:
		case k.name == "iptables-resync" && len(c.values) == 0: // the agent's own default: it is told of changes
		case strings.HasPrefix(k.name, "iface") && k.name != "iface-can-reach":
			k.to(&t, values)
		default:
			k.to(&t, values[len(values)-1:])
		}
	}
	asked := func(name string) bool { v := given[name].values; return len(v) > 0 && v[len(v)-1] == "true" }
	if !asked("kube-subnet-mgr") && !asked("version") {
		t.faults = append(t.faults, errors.New("--kube-subnet-mgr: not given: "+noEtcd+"; want --kube-subnet-mgr"))
	}
	for _, f := range fixed {
		if getenv(agentEnv(f.flag)) == "" {
			t.args = append(t.args, "--"+f.flag+"="+f.value)
		}
	}
	r.Args = t.args
	return r, errors.Join(t.faults...)
}

func help(all []known) string {
	var b strings.Builder
	b.WriteString("Usage: flanneld [flags]      (podnet-agent in flanneld's place; see podnet-agent --help for its own flags, as PODNET_... in the environment)\n\n")
	for _, k := range all {
		if k.to != nil {
			fmt.Fprintf(&b, "  --%-30s %s\n", k.name, k.usage)
		}
	}
	b.WriteString("\nKnown, without effect:\n")
	for _, k := range all {
		if k.to == nil {
			fmt.Fprintf(&b, "  --%-30s %s\n", k.name, k.why)
		}
	}
	return b.String()
}
