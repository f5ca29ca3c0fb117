package ipvstest

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/podnet/podnet/internal/nfnl"
	"github.com/podnet/podnet/internal/nfnl/nfnltest"
	"github.com/podnet/podnet/rtnl"
	"github.com/podnet/podnet/service"
	"github.com/podnet/podnet/service/ipvs"
	"github.com/podnet/podnet/service/servicetest"
)

// Where IPVS stands among the chains of its hooks (net/netfilter/ipvs/ip_vs_core.c, ip_vs_ops4): it takes what comes in at NF_IP_PRI_NAT_SRC - 1 of input, and what the node sends at
// NF_IP_PRI_NAT_DST + 2 of output.
const (
	inputPriority  = 99
	outputPriority = -98
)

// Hashed stands in a Verdict for the affinity of clients who stay with a real server because the scheduler sh hashes their address: without end, as long as the real servers stay.
const Hashed time.Duration = -1

// walk is a packet on its way.
type walk struct {
	n      *Node
	p      nfnltest.Packet
	tables func(h nfnl.Hook, s nfnltest.Step) (nfnltest.Result, error)
}

// Lookup sends the first packet of a connection through the node: nftables, the routes, IPVS, and for each real server that it may choose, nftables again. A packet with an address of
// the node as its source and no device is sent by the node. A real server on the node itself is met as one elsewhere is; the real kernel takes a packet from outside to it without postrouting.
func (n *Node) Lookup(p servicetest.Packet) (servicetest.Verdict, error) {
	locals, err := n.locals()
	if err != nil {
		return servicetest.Verdict{}, err
	}
	n.Tables.SetLocal(locals(p.From, p.To))
	w := walk{n: n, tables: n.Tables.Hook, p: nfnltest.Packet{
		From: netip.AddrPortFrom(p.From, 34567), To: netip.AddrPortFrom(p.To, p.Port), Protocol: uint8(p.Protocol), In: p.In,
	}}
	w.p.Out = p.In == "" && n.isDevices(p.From)
	if p.In == "" && !w.p.Out {
		w.p.In = "eth0" // it came in somewhere
	}
	if w.p.Out {
		return w.out()
	}
	r, err := w.tables(nfnl.Prerouting, nfnltest.Step{Packet: w.p})
	if err != nil {
		return servicetest.Verdict{}, err
	}
	if v, over := verdict(r); over {
		return v, nil
	}
	w.p.Mark = r.Mark
	if !n.isLocal(p.To) {
		return w.pass()
	}
	return w.in()
}

// locals returns which of some addresses are local, by addresses and routes.
func (n *Node) locals() (func(...netip.Addr) []netip.Addr, error) {
	if _, err := n.Net.Addrs(context.Background(), ""); err != nil {
		return nil, err
	}
	return func(addrs ...netip.Addr) []netip.Addr {
		var all []netip.Addr
		for _, a := range addrs {
			if n.isLocal(a) {
				all = append(all, a)
			}
		}
		return all
	}, nil
}

// isLocal reports whether the node takes packets to an address for its own: by the routes.
func (n *Node) isLocal(a netip.Addr) bool {
	if n.isDevices(a) {
		return true
	}
	routes, err := n.Net.Routes(context.Background(), rtnl.RouteFilter{Table: rtnl.TableLocal})
	if err != nil {
		panic(err)
	}
	for _, r := range routes {
		if r.Dst.Contains(a) {
			return true
		}
	}
	return false
}

// isDevices reports whether a device has an address.
func (n *Node) isDevices(a netip.Addr) bool {
	addrs, err := n.Net.Addrs(context.Background(), "")
	if err != nil {
		panic(err)
	}
	for _, have := range addrs {
		if have.Prefix.Addr() == a {
			return true
		}
	}
	return a.IsLoopback()
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func verdict(r nfnltest.Result) (servicetest.Verdict, bool) {
	switch r.Verdict {
	case nfnltest.Dropped:
		return servicetest.Verdict{Outcome: servicetest.Drops}, true
	case nfnltest.Rejected:
		return servicetest.Verdict{Outcome: servicetest.Rejects}, true
	}
	return servicetest.Verdict{}, false
}

// in is input: the chains before IPVS, IPVS, the chains behind it.
func (w *walk) in() (servicetest.Verdict, error) {
	r, err := w.tables(nfnl.Input, nfnltest.Step{Packet: w.p, Least: math.MinInt32, Most: inputPriority})
	if err != nil {
		return servicetest.Verdict{}, err
	}
	if v, over := verdict(r); over {
		return v, nil
	}
	w.p.Mark = r.Mark
	if v, taken, err := w.schedule(); taken || err != nil {
		return v, err
	}
	r, err = w.tables(nfnl.Input, nfnltest.Step{Packet: w.p, Least: inputPriority, Most: math.MaxInt32})
	if err != nil {
		return servicetest.Verdict{}, err
	}
	v, _ := verdict(r)
	return v, nil
}

// out is output likewise. What IPVS does not take and is for the node itself comes in through lo.
func (w *walk) out() (servicetest.Verdict, error) {
	r, err := w.tables(nfnl.Output, nfnltest.Step{Packet: w.p, Least: math.MinInt32, Most: outputPriority})
	if err != nil {
		return servicetest.Verdict{}, err
	}
	if v, over := verdict(r); over {
		return v, nil
	}
	w.p.Mark = r.Mark
	if v, taken, err := w.schedule(); taken || err != nil {
		return v, err
	}
	r, err = w.tables(nfnl.Output, nfnltest.Step{Packet: w.p, Least: outputPriority, Most: math.MaxInt32})
	if err != nil {
		return servicetest.Verdict{}, err
	}
	if v, over := verdict(r); over {
		return v, nil
	}
	w.p.Mark = r.Mark
	if !w.n.isLocal(w.p.To.Addr()) {
		return w.pass()
	}
	if v, err := w.pass(); err != nil || v.Outcome != servicetest.Pass {
		return v, err
	}
	w.p.In, w.p.Out = "lo", false
	return w.in()
}

// pass is postrouting of a packet that is nobody's business.
func (w *walk) pass() (servicetest.Verdict, error) {
	r, err := w.tables(nfnl.Postrouting, nfnltest.Step{Packet: w.p})
	if err != nil {
		return servicetest.Verdict{}, err
	}
	if r.Masquerade {
		return servicetest.Verdict{}, fmt.Errorf("%v is masqueraded and goes to no endpoint", w.p)
	}
	w.p.Mark = r.Mark
	v, _ := verdict(r)
	return v, nil
}

// schedule is IPVS. It asks for a virtual server by the mark first (ip_vs_service_find), then by the address.
func (w *walk) schedule() (v servicetest.Verdict, taken bool, err error) {
	family := service.FamilyOf(w.p.To.Addr())
	s, found := ipvs.Server{}, false
	if w.p.Mark != 0 {
		s, found = w.n.IPVS.schedule(ipvs.Key{Family: family, Mark: w.p.Mark})
	}
	if !found {
		s, found = w.n.IPVS.schedule(ipvs.Key{Family: family, Protocol: service.Protocol(w.p.Protocol), Addr: w.p.To})
	}
	if !found {
		return v, false, nil
	}
	if len(s.Reals) == 0 {
		return servicetest.Verdict{Outcome: servicetest.Rejects}, true, nil // ip_vs_leave
	}
	v.Outcome = servicetest.Forwards
	switch {
	case s.Flags&ipvs.Persistent != 0:
		v.Affinity = seconds(s.Timeout)
	case s.Scheduler == "sh":
		v.Affinity = Hashed
	}
	for _, r := range s.Reals {
		to := r.Addr
		if s.Mark != 0 && s.Flags&ipvs.Persistent != 0 {
			to = netip.AddrPortFrom(to.Addr(), w.p.To.Port()) // ip_vs_sched_persist does not translate the port
		}
		t, err := w.forward(to)
		if err != nil {
			return v, true, err
		}
		v.Targets = append(v.Targets, t)
	}
	return v, true, nil
}

// forward sends the packet to a real server: through all of output, then postrouting.
func (w *walk) forward(to netip.AddrPort) (servicetest.Target, error) {
	s := nfnltest.Step{Packet: w.p, Original: w.p.To, NoNAT: true}
	s.To = to
	r, err := w.tables(nfnl.Output, s)
	if err != nil {
		return servicetest.Target{}, err
	}
	if r.Verdict != nfnltest.Accepted || r.To != to {
		return servicetest.Target{}, fmt.Errorf("a packet on its way to %s: %+v", to, r)
	}
	s.Mark, s.NoNAT = r.Mark, false
	if r, err = w.tables(nfnl.Postrouting, s); err != nil {
		return servicetest.Target{}, err
	}
	if r.Verdict != nfnltest.Accepted || r.To != to || r.Mark != 0 {
		return servicetest.Target{}, fmt.Errorf("a packet leaves for %s: %+v", to, r)
	}
	return servicetest.Target{Addr: to, Masquerade: r.Masquerade}, nil
}
