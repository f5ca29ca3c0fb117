package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/podnet/podnet/internal/netns"
	"github.com/podnet/podnet/rtnl"
)

// build makes the namespaces and joins them: one bridge per segment in the lan namespace, one veth per port.
func (t *topology) build(ctx context.Context) error {
	machines := []*machine{&t.router, &t.outside, &t.balancer}
	segments := []segment{segmentA, segmentB, internet}
	if t.kubernetes {
		machines, segments = append(machines, &t.control), append(segments, controls)
	}
	for _, n := range t.nodes {
		machines = append(machines, &n.machine)
	}
	if err := create(t.lan); err != nil {
		return err
	}
	var plan rtnl.Plan
	for _, s := range segments {
		plan = append(plan, set(rtnl.Sysctl{Name: "net/ipv6/conf/default/disable_ipv6", Value: "1"}),
			rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{Name: s.name, Kind: rtnl.KindBridge, Up: rtnl.On}})
	}
	if err := write(ctx, t.lan, plan); err != nil {
		return err
	}
	return t.plug(ctx, machines...)
}

// plug makes machines and joins them to their segments.
func (t *topology) plug(ctx context.Context, machines ...*machine) error {
	var plan rtnl.Plan
	for _, m := range machines {
		if err := create(m.netns); err != nil {
			return err
		}
		for _, p := range m.ports {
			plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Link{
				Name: portName(m, p), Kind: rtnl.KindVeth, Up: rtnl.On, MTU: 1500, Master: p.on.name,
				Veth: rtnl.Veth{Peer: p.ifname, PeerNetns: m.netns},
			}})
		}
	}
	if err := write(ctx, t.lan, plan); err != nil {
		return err
	}
	for _, m := range machines {
		if err := write(ctx, m.netns, t.machinePlan(m)); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// unplug takes a machine off the underlay, as if it had lost power.
func (t *topology) unplug(ctx context.Context, m *machine) error {
	var plan rtnl.Plan
	for _, p := range m.ports {
		plan = append(plan, rtnl.Change{Verb: rtnl.Delete, Object: rtnl.Link{Name: portName(m, p)}})
	}
	return write(ctx, t.lan, plan)
}

// machinePlan gives a machine its addresses, a default route to the router and, if it is the router, forwarding. Addresses are usable at once (nodad).
func (t *topology) machinePlan(m *machine) rtnl.Plan {
	plan := rtnl.Plan{set(rtnl.Link{Name: "lo", Up: rtnl.On})}
	for _, p := range m.ports {
		plan = append(plan,
			set(rtnl.Sysctl{Name: "net/ipv6/conf/" + p.ifname + "/accept_ra", Value: "0"}),
			// A router asks for its neighbours from its link-local address, and not before duplicate address detection is done with
			// it, 1 to 2 s after the link comes up. A real machine's uplink has been up for longer than its pods.
			set(rtnl.Sysctl{Name: "net/ipv6/conf/" + p.ifname + "/accept_dad", Value: "0"}),
			set(rtnl.Link{Name: p.ifname, Up: rtnl.On, MTU: 1500}))
		for _, a := range p.addrs {
			plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Addr{Link: p.ifname, Prefix: a, NoDAD: a.Addr().Is6()}})
			if m != &t.router {
				any := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
				if a.Addr().Is6() {
					any = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
				}
				gateway := p.on.host(a.Addr().Is6(), 1).Addr()
				plan = append(plan, rtnl.Change{Verb: rtnl.Add, Object: rtnl.Route{
					Dst: any, Gateway: gateway, Link: p.ifname, Protocol: rtnl.ProtocolStatic}})
			}
		}
	}
	if m == &t.router {
		plan = append(plan,
			set(rtnl.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}),
			set(rtnl.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"}))
	}
	return plan
}

// portName names the switch's end of a port: "node-a.0" for the first port of node-a.
func portName(m *machine, p port) string { return m.name + "." + p.ifname[len("eth"):] }

func set(o rtnl.Object) rtnl.Change { return rtnl.Change{Verb: rtnl.Set, Object: o} }

func create(path string) error {
	if err := netns.Create(netns.Name(path)); err != nil {
		return fmt.Errorf("network namespace %s: %w", netns.Name(path), err)
	}
	return nil
}

// write executes a plan in a namespace.
func write(ctx context.Context, path string, plan rtnl.Plan) error {
	conn, err := rtnl.Open(rtnl.Options{Netns: path})
	if err != nil {
		return err
	}
	defer conn.Close()
	return errors.Join(conn.Write(ctx, plan)...)
}

// prepareFiles writes what an operator writes on each node: the network configuration and the node descriptors.
func (t *topology) prepareFiles() error {
	if err := os.WriteFile(t.path("net-conf.json"), t.netConf(), 0o600); err != nil {
		return err
	}
	for _, n := range t.nodes {
		if err := n.makeDirs(); err != nil {
			return err
		}
	}
	if t.kubernetes {
		return nil
	}
	if err := os.MkdirAll(t.path("nodes"), 0o700); err != nil {
		return err
	}
	for _, n := range t.nodes {
		if err := os.WriteFile(t.path("nodes", n.name+".yaml"), n.descriptor(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// makeDirs makes the node's own directories.
func (n *node) makeDirs() error {
	for _, dir := range []string{n.dir, n.path("cni"), n.path("net.d")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}
