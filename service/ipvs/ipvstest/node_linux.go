package ipvstest

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"sync"

	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/rtnl/rtnltest"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/servicetest"
)

// Node is a network namespace of a fake kernel: IPVS, nftables, addresses, routes, and the settings of IPVS. Make one with NewNode.
type Node struct {
	IPVS   *IPVS
	Tables *nfnltest.Kernel
	Net    *rtnltest.FakeNetns
	Host   *rtnltest.Kernel // that Net belongs to

	mu      sync.Mutex
	sysctls map[string]string
	machine servicetest.Machine
}

// NewNode returns a node without addresses.
func NewNode() *Node {
	host := rtnltest.NewKernel()
	n := &Node{IPVS: NewIPVS(), Tables: &nfnltest.Kernel{}, Net: host.Netns("node"), Host: host, sysctls: map[string]string{
		"conntrack": "0", "expire_nodest_conn": "0", "expire_quiescent_template": "0", "conn_reuse_mode": "1",
		"lblc_expiration": "86400000", "lblcr_expiration": "86400000",
	}}
	n.must(rtnl.Plan{{Verb: rtnl.Set, Object: rtnl.Link{Name: "lo", Up: rtnl.On}}, {Verb: rtnl.Add, Object: rtnl.Link{Name: "eth0", Kind: rtnl.KindBridge, Up: rtnl.On}}})
	return n
}

// Kernel is what a Dataplane wants.
func (n *Node) Kernel() ipvs.Kernel {
	return ipvs.Kernel{IPVS: n.IPVS, Tables: n.Tables.Open(), Net: netns{n.Net, n}}
}

func (n *Node) must(p rtnl.Plan) {
	if errs := n.Net.Write(context.Background(), p); errs != nil {
		panic(fmt.Sprint("ipvstest: ", p, errs)) // a test that wants such addresses is wrong
	}
}

// SetMachine gives the node's device just these addresses, and tells Lookup who the node is.
func (n *Node) SetMachine(m servicetest.Machine) {
	have, err := n.Net.Addrs(context.Background(), "eth0")
	if err != nil {
		panic(err)
	}
	old := map[netip.Addr]rtnl.Addr{}
	for _, a := range have {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			old[a.Prefix.Addr()] = a
		}
	}
	var plan rtnl.Plan
	for _, a := range m.Local {
		if _, ok := old[a]; !ok {
			plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: "eth0", Prefix: netip.PrefixFrom(a, a.BitLen()), NoDAD: a.Is6()}})
		}
		delete(old, a)
	}
	for _, a := range old {
		plan = append(plan, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Addr{Link: "eth0", Prefix: a.Prefix}})
	}
	n.must(plan)
	n.mu.Lock()
	n.machine = m
	n.mu.Unlock()
}

// Subject returns a dataplane on the node as one that can be asked.
func (n *Node) Subject(d *ipvs.Dataplane) servicetest.Subject { return subject{d, n} }

type subject struct {
	*ipvs.Dataplane
	*Node
}

// Sysctl returns a setting of IPVS, such as "conntrack".
func (n *Node) Sysctl(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sysctls[name]
}

// SetSysctl changes a setting of IPVS; with "" the kernel has none such.
func (n *Node) SetSysctl(name, value string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if value == "" {
		delete(n.sysctls, name)
		return
	}
	n.sysctls[name] = value
}

// netns is the network namespace with the settings of IPVS, which rtnltest does not have.
type netns struct {
	*rtnltest.FakeNetns
	n *Node
}

const sysctlPrefix = "net/ipv4/vs/"

// Sysctl reads a setting.
func (c netns) Sysctl(ctx context.Context, name string) (string, error) {
	short, ok := strings.CutPrefix(name, sysctlPrefix)
	if !ok {
		return c.FakeNetns.Sysctl(ctx, name)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	value, ok := c.n.sysctls[short]
	if !ok || c.n.IPVS.Missing {
		return "", fmt.Errorf("sysctl get %s: %w", name, fs.ErrNotExist)
	}
	return value, nil
}

// Write makes changes.
func (c netns) Write(ctx context.Context, p rtnl.Plan) []error {
	var errs []error
	for i, one := range p {
		err := ctx.Err()
		s, isSysctl := one.Object.(rtnl.Sysctl)
		short, ours := strings.CutPrefix(s.Name, sysctlPrefix)
		switch {
		case err != nil:
		case isSysctl && ours:
			c.n.SetSysctl(short, s.Value)
		default:
			if e := c.FakeNetns.Write(ctx, rtnl.Plan{one}); e != nil {
				err = e[0]
			}
		}
		if err != nil && errs == nil {
			errs = make([]error, len(p))
		}
		if err != nil {
			errs[i] = err
		}
	}
	return errs
}

// Dump returns what a Dataplane writes, sorted: virtual servers as ipvsadm takes them, the routes of table local, and the tables.
func (n *Node) Dump() string {
	ctx := context.Background()
	var b strings.Builder
	b.WriteString(Dump(ctx, n.IPVS))
	routes, err := n.Net.Routes(ctx, rtnl.RouteFilter{Table: rtnl.TableLocal})
	if err != nil {
		return err.Error()
	}
	for _, r := range routes {
		fmt.Fprintln(&b, r)
	}
	b.WriteString(n.Tables.Dump())
	return b.String()
}
