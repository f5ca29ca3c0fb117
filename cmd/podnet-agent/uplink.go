package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/coreos/go-iptables/iptables"
	"github.com/spf13/pflag"

	"github.com/podnet/podnet/cmd/podnet-agent/internal/agent"
	"github.com/podnet/podnet/cmd/podnet-agent/internal/takeover"
	"github.com/podnet/podnet/internal/check"
	"github.com/podnet/podnet/internal/peers"
	"github.com/podnet/podnet/masq"
	"github.com/podnet/podnet/rtnl"
)

// uplinkOptions are the command line of the uplink.
type uplinkOptions struct {
	ifaces, regexps []string
	canReach        string

	uplink agent.Uplink // what they say
}

func (u *uplinkOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&u.ifaces, "iface", nil, "`name` or address of the uplink; may be given several times: the first that is here; default: the device with this node's address, else that of the default route")
	f.StringArrayVar(&u.regexps, "iface-regex", nil, "regular `expression` that an address of the uplink matches, else its name; may be given several times, comes after --iface")
	f.StringVar(&u.canReach, "iface-can-reach", "", "`address` that the kernel sends to through the uplink; comes after --iface-regex")
}

func (u *uplinkOptions) check(fault func(flag, value, want string)) {
	for _, name := range u.ifaces {
		if _, err := netip.ParseAddr(name); err == nil || name == "" {
			continue
		}
		if err := check.Device(name); err != nil {
			fault("iface", name, fmt.Sprint(err)[len(fmt.Sprintf("%q: ", name)):])
		}
	}
	u.uplink.Ifaces = slices.DeleteFunc(slices.Clone(u.ifaces), func(s string) bool { return s == "" })
	for _, text := range u.regexps {
		if text == "" {
			continue
		}
		re, err := regexp.Compile(text)
		if err != nil {
			fault("iface-regex", text, err.Error()+": want a regular expression such as ^eth or ^192\\.168\\.1\\.")
			continue
		}
		u.uplink.Regexps = append(u.uplink.Regexps, re)
	}
	if u.canReach == "" {
		return
	}
	a, err := netip.ParseAddr(u.canReach)
	if err != nil || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Zone() != "" {
		fault("iface-can-reach", u.canReach, "want the address of a host such as 192.168.1.1")
		return
	}
	u.uplink.CanReach = a
}

// flannelOptions are the command line of living with flannel, and of succeeding it.
type flannelOptions struct {
	takeOver string
	names    string
}

// publicOptions are the command line of what other nodes are told.
type publicOptions struct {
	ipv4, ipv6 string

	addrs [2]netip.Addr // what they say
}

func (o *publicOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.ipv4, "public-ip", "", "IPv4 `address` under which other nodes reach this one, if it is not the uplink's (Kubernetes only; a node's public-ip-overwrite annotation comes first)")
	f.StringVar(&o.ipv6, "public-ipv6", "", "the same for IPv6, an `address`")
}

func (o *publicOptions) check(fault func(flag, value, want string)) {
	for i, f := range []struct {
		flag, value string
		family      rtnl.Family
	}{{"public-ip", o.ipv4, rtnl.IPv4}, {"public-ipv6", o.ipv6, rtnl.IPv6}} {
		if f.value == "" {
			continue
		}
		a, err := netip.ParseAddr(f.value)
		if err == nil && rtnl.FamilyOf(a) == f.family {
			err = peers.CheckAddr(a)
		} else {
			err = fmt.Errorf("want an IPv%d address", f.family)
		}
		if err != nil {
			fault(f.flag, f.value, err.Error())
			continue
		}
		o.addrs[i] = a
	}
}

// fromFlannel is the only predecessor there is.
const fromFlannel = "flannel"

func (o *flannelOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.takeOver, "take-over", "", "take over this node from `flannel`, with devices, routes, rules, leases and CNI configuration; empty: do not")
	f.StringVar(&o.names, "vtep-names", "podnet", "names of new VXLAN devices: podnet (podnet.1) or flannel (flannel.1)")
}

func (o *flannelOptions) check(fault func(flag, value, want string)) {
	if o.takeOver != "" && o.takeOver != fromFlannel {
		fault("take-over", o.takeOver, "want flannel or nothing")
	}
	if o.names != "podnet" && o.names != "flannel" {
		fault("vtep-names", o.names, "want podnet or flannel")
	}
}

// takenOver is where it is recorded which network was taken over.
func (o options) takenOver() string { return filepath.Join(o.stateDir, "network.json") }

// loadNetwork reads that.
func (o *options) loadNetwork() error {
	n, err := takeover.LoadNetwork(o.takenOver(), o.cniConfDir)
	o.network = &n
	return err
}

// takeOver returns what is to be taken over; nil: nothing.
func (o options) takeOver() *agent.TakeOver {
	if o.flannel.takeOver == "" {
		return nil
	}
	return &agent.TakeOver{Rules: flannelRules(), ConfDir: o.cniConfDir, Record: o.takenOver()}
}

func flannelRules() takeover.Rules {
	host := takeover.HostRules{Netfilter: &masq.Netfilter{}}
	return takeover.Rules{Kernel: host, ForwardDrops: func(ctx context.Context, f masq.Family) (bool, error) {
		proto := iptables.ProtocolIPv4
		if f == masq.IPv6 {
			proto = iptables.ProtocolIPv6
		}
		ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Timeout(10))
		if errors.Is(err, exec.ErrNotFound) {
			return host.ForwardDrops(ctx, f)
		}
		if err != nil {
			return false, err
		}
		return takeover.PolicyDrops(ipt)
	}}
}
